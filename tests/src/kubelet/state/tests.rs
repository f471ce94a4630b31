use serde_json::{Value, json};

use super::*;

const START: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = START.parse().unwrap();
    start + Duration::from_secs(seconds.unsigned_abs())
}

fn state(spec: Value, status: Value) -> State {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": status});
    let back_off = BackOff::new(Duration::from_secs(10), Duration::from_secs(300));
    State::new(&serde_json::from_value(pod).unwrap(), back_off, at(0))
}

fn end(state: &mut State, index: usize, code: i32, now: i64) {
    let started = match state.records[index].phase {
        Phase::Running { since } => Some(since),
        Phase::Waiting { .. } | Phase::Ended(_) => None,
    };
    state.records[index].on_ended(Ended {
        code,
        reason: "Error".to_owned(),
        message: String::new(),
        started,
        finished: at(now),
        id: None,
    });
}

fn run(state: &mut State, index: usize, now: i64) {
    state.records[index].on_started(format!("id{now}"), at(now));
}

#[test]
fn init_containers_run_one_after_another_then_sidecars_then_all_others() {
    let spec = json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "a"}, {"name": "b"}],
    });
    let mut state = state(spec, json!({}));
    assert_eq!(state.plan(at(0)).start, [0]);
    run(&mut state, 0, 0);
    assert_eq!(state.plan(at(1)), Plan::default());
    end(&mut state, 0, 0, 1);
    assert_eq!(state.plan(at(1)).start, [1]);
    run(&mut state, 1, 1);
    assert_eq!(
        state.plan(at(1)),
        Plan::default(),
        "its startup probe has not succeeded"
    );
    assert!(!state.initialized());
    state.records[1].started = true;
    assert!(state.initialized());
    assert_eq!(state.plan(at(2)).start, [2, 3]);
}

#[test]
fn restarts_are_further_and_further_apart() {
    let mut state = state(json!({"containers": [{"name": "a"}]}), json!({}));
    run(&mut state, 0, 0);
    end(&mut state, 0, 1, 1);
    assert_eq!(state.plan(at(1)).start, [0], "the first restart is at once");
    run(&mut state, 0, 1);
    let mut now = 2;
    for delay in [10, 20, 40, 80, 160, 300, 300] {
        end(&mut state, 0, 1, now);
        let plan = state.plan(at(now));
        assert_eq!((plan.start.len(), plan.backing_off.len()), (0, 1), "{delay}");
        assert_eq!(plan.wake, Some(at(now + delay)), "{delay}");
        let Phase::Waiting { reason, message, .. } = &state.records[0].phase else {
            panic!("{:?}", state.records[0].phase)
        };
        assert_eq!(reason, "CrashLoopBackOff");
        assert_eq!(
            message,
            &format!("back-off {delay}s restarting failed container=a pod=p_n(u)")
        );
        now += delay;
        assert_eq!(state.plan(at(now)).start, [0], "{delay}");
        run(&mut state, 0, now);
    }
    assert_eq!(state.records[0].restarts, 8);
    end(&mut state, 0, 1, now + 601);
    assert_eq!(state.plan(at(now + 601)).start, [0], "a long run is no crash");
}

#[test]
fn policies_decide_over_restarts() {
    for (policy, code, restarts) in [
        ("Never", 1, false),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Always", 0, true),
    ] {
        let mut state = state(
            json!({"restartPolicy": policy, "containers": [{"name": "a"}]}),
            json!({}),
        );
        run(&mut state, 0, 0);
        end(&mut state, 0, code, 1);
        assert_eq!(state.is_over(), !restarts, "{policy} {code}");
    }
}

#[test]
fn sidecars_end_with_the_last_container() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}],
    });
    let mut state = state(spec, json!({}));
    for index in 0..3 {
        assert_eq!(state.plan(at(0)).start, [index]);
        run(&mut state, index, 0);
    }
    end(&mut state, 2, 0, 5);
    assert_eq!(state.plan(at(5)).stop, [1, 0]);
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let mut state = state(spec, json!({}));
    run(&mut state, 0, 0);
    end(&mut state, 0, 3, 1);
    assert!(state.is_over() && state.init_failed());
}

#[test]
fn a_kubelet_takes_up_what_its_predecessor_ran() {
    let running = json!({"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2,
        "containerID": "x://1", "state": {"running": {"startedAt": START}}});
    let mut again = state(
        json!({"containers": [{"name": "a"}]}),
        json!({"containerStatuses": [running]}),
    );
    assert_eq!(again.plan(at(1)).start, [0]);
    run(&mut again, 0, 1);
    assert_eq!(again.records[0].restarts, 3);
    assert_eq!(again.records[0].last.as_ref().unwrap().code, 137);

    let ended = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0}}});
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    assert!(state(spec, json!({"containerStatuses": [ended]})).is_over());
}
