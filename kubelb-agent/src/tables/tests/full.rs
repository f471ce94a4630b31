//! Maps without room: what does not fit is named, and everything else stands.

use super::*;

/// `count` frontends with this many backends each; the backends are all different.
fn many(count: u32, backends: u32) -> Inputs {
    let mut inputs = Inputs::default();
    for n in 0..count {
        let mut frontend = frontend("203.0.113.10", 80, &[]);
        frontend.vip = IpAddr::from((0xcb00_0000 + n).to_be_bytes());
        for m in 0..backends {
            let address = IpAddr::from((0x0a00_0000 + n * backends + m).to_be_bytes());
            frontend.backends.push(Backend::new((address, 8080).into(), 1));
        }
        inputs.desired.frontends.insert(format!("f{n:05}"), frontend);
    }
    inputs
}

fn one_more(inputs: &mut Inputs, name: &str, backends: &[(&str, u16)]) {
    let frontend = frontend("198.51.100.1", 80, backends);
    inputs.desired.frontends.insert(name.to_owned(), frontend);
}

fn full(frontend: &str, map: &'static str, capacity: u32) -> Problem {
    Problem::Full {
        frontend: frontend.to_owned(),
        map,
        capacity,
    }
}

fn built(inputs: &Inputs, actual: &Tables) -> (Tables, Vec<Problem>) {
    inputs.build(actual, &mut Cursors::default())
}

#[test]
fn frontends_beyond_the_last_row_are_named() {
    let mut inputs = many(ROOM.frontends - 1, 0);
    let (all, problems) = built(&inputs, &Tables::default());
    assert_eq!(problems, []);
    assert_eq!(all.frontends.len(), inputs.desired.frontends.len());
    // By name it comes first; those that are there keep their rows all the same.
    one_more(&mut inputs, "a", &[]);
    let (still, problems) = built(&inputs, &all);
    assert_eq!(problems, [full("a", size::FRONTENDS, ROOM.frontends)]);
    assert_eq!(still, all);
}

#[test]
fn a_frontend_whose_backends_do_not_fit_takes_no_rows_and_one_that_is_there_stays_as_it_is() {
    let mut inputs = many(66, 992);
    let (all, problems) = built(&inputs, &Tables::default());
    assert_eq!(problems, [], "{} backends", all.backends.len());
    let left = ROOM.backends - 1 - 66 * 992;
    let too_many: Vec<String> = (0..=left)
        .map(|n| format!("192.168.{}.{}:80", n / 250, n % 250))
        .collect();
    let too_many: Vec<(&str, u16)> = too_many.iter().map(|address| (address.as_str(), 1)).collect();
    one_more(&mut inputs, "a", &too_many);
    let mut small = frontend("198.51.100.2", 80, &too_many[..1]);
    inputs.desired.frontends.insert("b".to_owned(), small.clone());
    let (next, problems) = built(&inputs, &all);
    assert_eq!(problems, [full("a", size::BACKENDS, ROOM.backends)]);
    assert_eq!(next.frontends.len(), 67, "b finds room, because a took none");

    // Now b wants more than there is.
    small.backends = frontend("198.51.100.2", 80, &too_many).backends;
    inputs.desired.frontends.remove("a");
    inputs.desired.frontends.insert("b".to_owned(), small);
    let (last, problems) = built(&inputs, &next);
    assert_eq!(problems, [full("b", size::BACKENDS, ROOM.backends)]);
    assert_eq!(last, next, "b goes on with what it has");
}

#[test]
fn a_turn_without_room_is_named() {
    let mut inputs = many(64, 2);
    // A map that an earlier version made.
    inputs.backend_slots = Some(1 << 19);
    for frontend in inputs.desired.frontends.values_mut() {
        frontend.backends[0].weight = 8_191;
    }
    let (all, problems) = built(&inputs, &Tables::default());
    assert_eq!(problems, []);
    let published: usize = all.frontends.values().map(|row| row.turn.len()).sum();
    assert_eq!(u32::try_from(published), Ok(1 << 19));
    one_more(&mut inputs, "a", &[(A, 1)]);
    one_more(&mut inputs, "z", &[]);
    let (next, problems) = built(&inputs, &all);
    assert_eq!(problems, [full("a", size::BACKEND_SLOTS, 1 << 19)]);
    assert_eq!(next.frontends.len(), 65, "one without backends needs no slots");
}

#[test]
fn a_way_without_room_is_named() {
    let mut inputs = many(129, 127);
    let count = ROOM.hops - 1;
    assert_eq!(count, 129 * 127);
    for n in 0..count {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        inputs.hops.insert(address, hop(n + 1, Some(1)));
    }
    let (all, problems) = built(&inputs, &Tables::default());
    assert_eq!(problems, []);
    assert_eq!(u32::try_from(all.hops.len()), Ok(count));
    one_more(&mut inputs, "a", &[("192.168.0.1:80", 1)]);
    inputs
        .hops
        .insert("192.168.0.1".parse().unwrap(), hop(count + 1, Some(1)));
    let (next, problems) = built(&inputs, &all);
    assert_eq!(problems, [full("a", size::NEXT_HOPS, ROOM.hops)]);
    assert_eq!(next, all);
}
