//! How much comes in one response to a proxy.

use super::*;

fn clusters(many: usize) -> Vec<Resource> {
    (0..many).map(|number| cluster(&format!("a/{number}"), "")).collect()
}

fn listeners(many: usize) -> Vec<Resource> {
    (0..many).map(|number| listener(&format!("a/{number}"), "")).collect()
}

fn sizes(shown: &[String]) -> Vec<usize> {
    shown.iter().map(|response| response.matches('+').count()).collect()
}

impl Stream {
    fn follow(&mut self, resources: Vec<Resource>) -> Vec<String> {
        let output = self.session.on_snapshot(snapshot(resources), self.now);
        self.shown(output)
    }
}

#[test]
fn the_first_response_is_whole_and_later_ones_keep_nobody_waiting() {
    let mut stream = Stream::fleet(clusters(300));
    assert_eq!(sizes(&stream.ask(CDS, &["*"])), [300]);
    stream.ack(CDS);
    let mut got = sizes(&stream.follow(clusters(500)));
    while stream.session.types.get(CDS).in_flight.is_some() {
        got.extend(sizes(&stream.ack(CDS)));
    }
    assert_eq!(got, [64, 64, 64, 8]);
}

#[test]
fn listeners_come_in_parts_but_not_when_some_may_take_the_place_of_others() {
    let mut stream = Stream::fleet(Vec::new());
    stream.ask(LDS, &["*"]);
    stream.ack(LDS);
    assert_eq!(sizes(&stream.follow(listeners(100))), [64]);
    assert_eq!(sizes(&stream.ack(LDS)), [36]);
    stream.ack(LDS);
    let mut others: Vec<Resource> = (0..100).map(|number| listener(&format!("b/{number}"), "")).collect();
    others.extend(listeners(1));
    let shown = stream.follow(others);
    assert_eq!(sizes(&shown), [100]);
    assert_eq!(shown[0].matches(" -").count(), 99);
}
