//! Tests captures of a sample's traffic.

use bytes::Bytes;
use serde_json::{Value, json};
use sim::{Behaviour, Fault};

use crate::world::{World, drain, put};

fn capture(what: &str) -> Bytes {
    let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1];
    bytes.resize(24, 0);
    bytes.extend_from_slice(what.as_bytes());
    bytes.into()
}

fn wants_captures(mut request: Value) -> (Value, String) {
    request["entity"]["pcap"] = json!(true);
    let sha256 = request["entity"]["hash"].as_str().unwrap().to_owned();
    (request, sha256)
}

impl World {
    /// Returns the labels of the streams of the only sample's event, and the stored captures.
    fn captured(&self) -> (Vec<String>, Vec<Bytes>) {
        let arrived = self.dispatcher.arrived();
        let sourced = arrived.of(sim::Model::Binary).next().unwrap();
        let streams = sourced.event["entity"]["datastreams"].as_array().unwrap();
        let labels = streams.iter().map(|s| s["label"].as_str().unwrap().to_owned()).collect();
        let stored = streams.iter().filter(|s| s["label"] == "pcap").map(|stream| {
            let sha256 = stream["sha256"].as_str().unwrap();
            self.dispatcher.stream("virustotal", "pcap", sha256).unwrap()
        });
        (labels, stored.collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_comes_with_its_sample_and_is_counted() {
    let world = World::new().await;
    let (request, sha256) = wants_captures(world.with_link("sample"));
    world.virustotal.behaviour(&sha256, "Some / box", 5, Some(capture("traffic")));
    let download = world.download(&[("VT_REQUESTS_PER_DAY", "10")]);
    put(&download, [request]).await;
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    let (labels, stored) = world.captured();
    assert_eq!(labels, ["content", "pcap"]);
    assert_eq!(stored, [capture("traffic")]);
    let now = jiff::Timestamp::now();
    let totals = world.totals(now).await;
    assert_eq!((totals.total, totals.pcaps, totals.api_charged), (1, 1, 0));
    let windows = &azul_vt::tasks::EventFunction::common(&download).settings.lookup.windows;
    let used = world.store().budget.usage("virustotal", windows, now).await.unwrap();
    assert_eq!(used[0].used, 2, "the list and the capture");
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_sandboxes_the_named_ones_come_first() {
    for (limit, sandboxes, expected) in [
        ("1", "", vec!["new"]),
        ("1", "Old box", vec!["old"]),
        ("2", "Old box", vec!["old", "new"]),
        ("0", "Old box", vec![]),
    ] {
        let world = World::new().await;
        let (request, sha256) = wants_captures(world.with_link("sample"));
        world.virustotal.behaviour(&sha256, "Old box", 5, Some(capture("old")));
        world.virustotal.behaviour(&sha256, "New box", 6, Some(capture("new")));
        world.virustotal.behaviour(&sha256, "Newest box", 7, None);
        let download = world.download(&[("PCAP_LIMIT", limit), ("PCAP_SANDBOXES", sandboxes)]);
        put(&download, [request]).await;
        drain(&download).await;
        let expected: Vec<Bytes> = expected.into_iter().map(capture).collect();
        assert_eq!(world.captured().1, expected, "{limit} {sandboxes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_cannot_be_had_never_costs_its_sample() {
    let html = Behaviour::Bundle("<html><body>You may not see this</body></html>".into());
    let header = Behaviour::Bundle(capture(""));
    for (what, of_list, of_capture) in [
        ("no report", None, None),
        ("the list: 403", Some(Behaviour::Forbidden), None),
        ("the list: no list", Some(Behaviour::Bundle("[]".into())), None),
        ("the list: 503", Some(Behaviour::Transient(None)), None),
        ("the capture: 403", None, Some(Behaviour::Forbidden)),
        ("the capture: 404", None, Some(Behaviour::Missing)),
        ("the capture: html", None, Some(html)),
        ("the capture: empty", None, Some(Behaviour::Content(Fault::EmptyBody))),
        ("the capture: a header alone", None, Some(header)),
        ("the capture: cut off", None, Some(Behaviour::Content(Fault::TruncateBody))),
    ] {
        let world = World::new().await;
        let (request, sha256) = wants_captures(world.with_link("sample"));
        if what != "no report" {
            world.virustotal.behaviour(&sha256, "Box", 5, Some(capture(&"traffic ".repeat(99))));
        }
        if let Some(behaviour) = of_list {
            world.virustotal.behave_behaviours(&sha256, &behaviour, usize::MAX);
        }
        if let Some(behaviour) = of_capture {
            world.virustotal.behave_pcap(&format!("{sha256}_Box"), &behaviour, usize::MAX);
        }
        let download = world.download(&[]);
        put(&download, [request]).await;
        assert_eq!(drain(&download).await.done, 1, "{what}");
        assert_eq!(world.actions(), ["success"], "{what}");
        assert_eq!(world.captured().0, ["content"], "{what}");
        assert_eq!(world.dispatcher.streams().len(), 1, "{what}");
        assert_eq!(world.totals(jiff::Timestamp::now()).await.pcaps, 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_of_reports_are_read_and_an_odd_report_costs_itself() {
    let world = World::new().await;
    let (request, sha256) = wants_captures(world.with_link("sample"));
    world.virustotal.behaviour(&sha256, "Last box", 5, Some(capture("traffic")));
    let report = |n: usize| {
        json!({"type": "file_behaviour", "id": format!("{sha256}_Box{n}"),
               "attributes": {"sandbox_name": format!("Box{n}"), "has_pcap": false}})
    };
    let mut first: Vec<Value> = (0..9).map(report).collect();
    first.push(json!({"id": null, "attributes": null}));
    let last = json!({"type": "file_behaviour", "id": format!("{sha256}_Last box"),
                      "attributes": {"sandbox_name": null, "analysis_date": "5", "has_pcap": true}});
    for page in [
        json!({"data": first, "meta": {"count": 11, "cursor": "Y3Vy"}}),
        json!({"data": [last], "meta": {"count": 11}}),
    ] {
        let page = Behaviour::Bundle(page.to_string().into());
        world.virustotal.behave_behaviours(&sha256, &page, 1);
    }
    let download = world.download(&[]);
    put(&download, [request]).await;
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.captured().1, [capture("traffic")]);
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_direct_only_no_capture_is_asked_for() {
    let world = World::new().await;
    let (request, sha256) = wants_captures(world.with_link("sample"));
    world.virustotal.behaviour(&sha256, "Box", 5, Some(capture("traffic")));
    let download = world.download(&[("DIRECT_ONLY", "1")]);
    put(&download, [request]).await;
    drain(&download).await;
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.captured().0, ["content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_costs_the_capture_alone() {
    let world = World::new().await;
    let (request, sha256) = wants_captures(world.with_link("sample"));
    world.virustotal.behaviour(&sha256, "Box", 5, Some(capture("traffic")));
    let download = world.download(&[("VT_REQUESTS_PER_DAY", "1")]);
    put(&download, [request]).await;
    assert_eq!(drain(&download).await.done, 1);
    assert_eq!(world.actions(), ["success"]);
    assert_eq!(world.captured().0, ["content"]);
}
