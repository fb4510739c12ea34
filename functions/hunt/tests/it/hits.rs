//! Tests the outcomes of hits.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use azul_vt::{
    pipeline::RunLimits,
    store::{
        Grant,
        rejects::{Reject, RejectStage, Rejects},
    },
};
use hunt::{NAME, Report, Trigger};
use jiff::SignedDuration;
use serde_json::{Value, json};
use sim::{Hit, Model};

use crate::world::{NOW, World, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_becomes_an_event_and_a_request() {
    let world = World::new().await;
    let mut hit = Hit::file(1, NOW - 60, "apt_one");
    hit.ruleset = ("77".into(), "My rules".into());
    hit.rule_tags = vec!["apt".into(), "loader".into()];
    hit.source_key = Some("0a1b2c3d".into());
    hit.source_country = Some("AU".into());
    hit.match_source = "BUNDLED_FILE".into();
    hit.snippet = "é".repeat(3000);
    let sha256 = hit.id.clone();
    let notification = hit.notification_id.clone();
    world.virustotal.hit(hit);
    let report = run(&world.hunt(&[("HUNT_PCAP", "1")])).await;
    assert_eq!((report.read, report.delivered, report.requests), (1, 1, 1));
    assert_eq!(report.position, Some(NOW - 60));
    assert_eq!(world.position().await, Some(NOW - 60));
    let arrived = world.dispatcher.arrived();
    let mapped = arrived.of(Model::Binary).next().unwrap();
    assert_eq!((mapped.action.as_str(), mapped.source.as_str()), ("mapped", "vtlivehunt"));
    let event = &mapped.event;
    let references = json!({"subject": "apt_one", "ruleset": "77", "ruleset_name": "My rules"});
    assert_eq!(event["source"]["references"], references);
    assert_eq!(event["source"]["timestamp"], "2026-11-24T08:59:00Z");
    assert_eq!(event["author"]["name"], "VirustotalHuntFeed");
    let features = |name: &str| -> Vec<&str> {
        let all = event["entity"]["features"].as_array().unwrap().iter();
        all.filter(|f| f["name"] == name).map(|f| f["value"].as_str().unwrap()).collect()
    };
    assert_eq!(features("hunt_rule"), ["apt_one"]);
    assert_eq!(features("hunt_ruleset"), ["My rules"]);
    assert_eq!(features("hunt_rule_tag"), ["apt", "loader"]);
    assert_eq!(features("hunt_notification"), [notification.as_str()]);
    assert_eq!(features("hunt_match_source"), ["BUNDLED_FILE"]);
    assert_eq!(features("hunt_submitter_id"), ["0a1b2c3d"]);
    assert_eq!(features("hunt_source_country"), ["AU"]);
    assert_eq!(features("hunt_match_snippet"), ["é".repeat(2000).as_str()]);
    assert!(
        !features("tag").is_empty() || event["entity"]["features"].as_array().unwrap().len() > 7
    );
    let request = &arrived.of(Model::Download).next().unwrap().event;
    let entity = json!({
        "hash": sha256, "category": "vtlivehunt/apt_one", "category_quota": 50, "pcap": true,
    });
    assert_eq!(request["entity"], entity);
    let registered = arrived.registered_features("VirustotalHuntFeed");
    assert!(arrived.feature_names().is_subset(&registered));
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_read_and_a_second_run_sends_nothing() {
    let world = World::new().await;
    world.hits(130, 3);
    let hunt = world.hunt(&[]);
    let report = run(&hunt).await;
    assert_eq!((report.read, report.delivered, report.requests), (130, 130, 130));
    assert_eq!(world.mapped().len(), 130);
    let posts = world.dispatcher.posts().len();
    let again = run(&hunt).await;
    assert_eq!((again.delivered, again.requests), (0, 0));
    assert!(again.known > 0, "the overlap is read again: {again:?}");
    assert_eq!(world.dispatcher.posts().len(), posts);
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_or_in_the_same_second_is_not_missed() {
    let world = World::new().await;
    let hunt = world.hunt(&[]);
    for n in 0..90 {
        world.virustotal.hit(Hit::file(n, NOW - 60, "rule"));
    }
    assert_eq!(run(&hunt).await.delivered, 90);
    // One hit is five minutes older than the position, and the other has the same second.
    world.virustotal.hit(Hit::file(200, NOW - 360, "rule"));
    world.virustotal.hit(Hit::file(201, NOW - 60, "rule"));
    assert_eq!(run(&hunt).await.delivered, 2);
    assert_eq!(world.mapped().len(), 92);
    assert_eq!(world.position().await, Some(NOW - 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_anywhere_loses_nothing() {
    let world = World::new().await;
    world.hits(200, 2);
    let mut stops = 0;
    for moment in [5, 15, 30, 45, 60, 90, 120, 160] {
        let hunt = world.hunt(&[]);
        let (tick, limits) = (Trigger::Tick, RunLimits::default());
        let running = hunt.run(&tick, &limits);
        let moment = std::time::Duration::from_millis(moment);
        // The run is dropped in its middle, as by a kill.
        stops += usize::from(tokio::time::timeout(moment, running).await.is_err());
    }
    run(&world.hunt(&[])).await;
    assert_eq!(world.mapped().len(), 200);
    let requested = world.requested();
    let distinct: BTreeSet<_> = requested.iter().collect();
    assert_eq!(distinct.len(), 200);
    assert!(requested.len() <= 200 + stops * 40, "{} requests", requested.len());
    let again = run(&world.hunt(&[])).await;
    assert_eq!((again.delivered, again.requests), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_asked_for_once_a_rule() {
    let world = World::new().await;
    for (n, rule) in ["one", "one", "two"].into_iter().enumerate() {
        let mut hit = Hit::file(1, NOW - 60, rule);
        hit.notification_id = format!("n-{n}");
        world.virustotal.hit(hit);
    }
    let report = run(&world.hunt(&[])).await;
    assert_eq!((report.delivered, report.requests), (3, 2));
    let categories: Vec<_> = world.requested().into_iter().map(|(category, _)| category).collect();
    assert_eq!(categories, ["vtlivehunt/one", "vtlivehunt/two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_settings_want_is_delivered() {
    let hits = || {
        let mut apt = Hit::file(1, NOW - 60, "apt_one");
        apt.ruleset = ("7".into(), "mine".into());
        apt.rule_tags = vec!["apt".into()];
        let mut test = Hit::file(2, NOW - 59, "apt_test");
        test.ruleset = ("8".into(), "theirs".into());
        let mut few = Hit::file(3, NOW - 58, "mal_one");
        few.attributes["last_analysis_stats"]["malicious"] = json!(1);
        [apt, test, few]
    };
    for (settings, wanted) in [
        (&[("HUNT_RULES", "apt_*")][..], vec![1, 2]),
        (&[("HUNT_RULES", "!*_test")], vec![1, 3]),
        (&[("HUNT_RULES", "apt_*,!*_test")], vec![1]),
        (&[("HUNT_RULESETS", "7,theirs")], vec![1, 2]),
        (&[("HUNT_RULESETS", "!mine")], vec![2, 3]),
        (&[("HUNT_TAGS", "apt")], vec![1]),
        (&[("HUNT_MIN_POSITIVES", "2")], vec![1, 2]),
        (&[("HUNT_RULES", "apt_*"), ("HUNT_RULESETS", "theirs")], vec![2]),
        (&[("HUNT_RULES", "none")], vec![]),
    ] {
        let world = World::new().await;
        let all = hits();
        let expected: BTreeSet<String> =
            wanted.iter().map(|n: &usize| all[n - 1].id.clone()).collect();
        for hit in all {
            world.virustotal.hit(hit);
        }
        let report = run(&world.hunt(settings)).await;
        assert_eq!(world.mapped(), expected, "{settings:?}");
        assert_eq!(report.unwanted, 3 - wanted.len() as u64, "{settings:?}");
        assert_eq!(world.position().await, Some(NOW - 58), "{settings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_asked_for_where_they_fit_and_are_wanted() {
    for (settings, requests) in
        [(&[][..], 1), (&[("HUNT_DOWNLOAD", "0")], 0), (&[("MAX_DOWNLOAD_SIZE_MB", "0")], 2)]
    {
        let world = World::new().await;
        world.virustotal.hit(Hit::file(1, NOW - 60, "rule"));
        let mut large = Hit::file(2, NOW - 59, "rule");
        large.attributes["size"] = json!(21 << 20);
        world.virustotal.hit(large);
        let report = run(&world.hunt(settings)).await;
        assert_eq!((report.delivered, report.requests), (2, requests), "{settings:?}");
        let is_limited = settings != [("MAX_DOWNLOAD_SIZE_MB", "0")];
        assert_eq!(report.too_large, u64::from(is_limited), "{settings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_whose_size_is_not_said_is_asked_for() {
    let world = World::new().await;
    let mut silent = Hit::file(1, NOW - 60, "rule");
    silent.attributes.as_object_mut().unwrap().remove("size");
    world.virustotal.hit(silent);
    let report = run(&world.hunt(&[])).await;
    assert_eq!((report.delivered, report.requests, report.too_large), (1, 1, 0));
}

/// A function that changes a hit's object.
type Change = Box<dyn Fn(&mut Value)>;

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_member_of_a_hit_costs_that_member_alone() {
    let set = |path: &'static str, value: Value| -> Change {
        Box::new(move |object: &mut Value| *object.pointer_mut(path).unwrap() = value.clone())
    };
    let add = |name: &'static str, value: Value| -> Change {
        Box::new(move |object: &mut Value| object["context_attributes"][name] = value.clone())
    };
    let changes: Vec<Change> = vec![
        set("/context_attributes/tags", json!(null)),
        set("/context_attributes/sources", json!(null)),
        set("/context_attributes/sources", json!([null])),
        set("/context_attributes/sources/0/id", json!(77)),
        set("/context_attributes/sources/0/label", json!(null)),
        set("/context_attributes/notification_id", json!(10_000_000_001_i64)),
        set("/context_attributes/notification_date", json!((NOW - 60).to_string())),
        set("/context_attributes/notification_date", json!(1_795_510_700.5)),
        set("/context_attributes/notification_date", json!(null)),
        set("/context_attributes/hunting_info", json!(null)),
        set("/context_attributes/hunting_info/rule_name", json!(null)),
        set("/context_attributes/hunting_info/rule_tags", json!(null)),
        set("/context_attributes/hunting_info/snippet", json!(["s"])),
        set("/attributes/last_analysis_stats", json!(null)),
        set("/attributes/last_analysis_stats/malicious", json!(null)),
        set("/attributes/size", json!("100")),
        set("/attributes/size", json!(-1)),
        set("/attributes", json!(null)),
        set("/id", json!(null)),
        add("notification_tags", json!(["y"])),
        add("rule_name", json!("rule")),
        add("hunting_notification_id", json!("n-2")),
    ];
    let world = World::new().await;
    let count = changes.len();
    for (n, change) in changes.into_iter().enumerate() {
        let date = NOW - 100 + i64::try_from(n).unwrap();
        let mut object = Hit::file(n, date, "rule").to_json();
        change(&mut object);
        world.virustotal.malformed_hit(object, date);
    }
    let report = run(&world.hunt(&[])).await;
    assert_eq!((report.delivered, report.rejected), (count as u64, 0), "{report:?}");
    assert_eq!(world.mapped().len(), count);
    assert_eq!(report.requests, count as u64);
    assert!(report.bad_values >= 4, "{report:?}");
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dispatcher_refuses_is_kept_and_arrives_when_it_is_tried_again() {
    let world = World::new().await;
    let hits = [(1, 59), (2, 58), (3, 57)].map(|(n, back)| Hit::file(n, NOW - back, "rule"));
    let (event, request) = (hits[0].id.clone(), hits[1].id.clone());
    let is_refused = |event: &Value, hash: &str| {
        event["entity"]["sha256"] == hash || event["entity"]["hash"] == hash
    };
    let mended = Arc::new(AtomicBool::new(false));
    let (flag, refused) = (Arc::clone(&mended), [event.clone(), request.clone()]);
    world.dispatcher.refuse(move |of| {
        let [event, request] = &refused;
        let is_request = of["entity"]["hash"].is_string();
        !flag.load(Ordering::Relaxed)
            && (is_refused(of, event) || (is_request && is_refused(of, request)))
    });
    for hit in hits {
        world.virustotal.hit(hit);
    }
    let hunt = world.hunt(&[]);
    let report = run(&hunt).await;
    assert_eq!((report.delivered, report.requests, report.rejected), (2, 1, 2), "{report:?}");
    assert_eq!(world.position().await, Some(NOW - 57));
    let rejects = Rejects::new(Arc::clone(&world.store().bundles));
    let [kept] = &rejects.list().await.unwrap()[..] else { panic!("one object for the page") };
    let kept = rejects.read(&kept.key).await.unwrap().unwrap();
    let stages: Vec<_> =
        kept.iter().map(|reject| (reject.stage, reject.sha256.clone().unwrap())).collect();
    assert_eq!(stages, [(RejectStage::Hit, event.clone()), (RejectStage::Request, request)]);
    // A refused hit is neither sent again by the next run nor kept twice.
    let again = run(&hunt).await;
    assert_eq!((again.delivered, again.rejected, again.known), (0, 0, 3));
    let hits: Vec<_> = kept.into_iter().filter(|r| r.stage == RejectStage::Hit).collect();
    let (limits, mut report) = (RunLimits::default(), Report::default());
    let left = hunt.retry(hits.clone(), &limits, &mut report).await.unwrap();
    assert_eq!((left.len(), report.delivered), (1, 0), "refused again");
    mended.store(true, Ordering::Relaxed);
    let left = hunt.retry(left, &limits, &mut report).await.unwrap();
    assert_eq!((left.len(), report.delivered, report.requests), (0, 1, 1));
    assert!(world.mapped().contains(&event));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hit_is_kept_once_with_the_object_and_the_reason() {
    let world = World::new().await;
    let mut object = Hit::file(1, NOW - 60, "rule").to_json();
    object["context_attributes"]["notification_id"] = json!(null);
    world.virustotal.malformed_hit(object.clone(), NOW - 60);
    let hunt = world.hunt(&[]);
    assert_eq!(run(&hunt).await.rejected, 1);
    let again = run(&hunt).await;
    assert_eq!((again.rejected, again.known), (0, 1));
    let rejects = Rejects::new(Arc::clone(&world.store().bundles));
    let [kept] = &rejects.list().await.unwrap()[..] else { panic!("one object") };
    let kept = rejects.read(&kept.key).await.unwrap().unwrap();
    assert_eq!((kept.len(), kept[0].origin.as_str()), (1, "hunt"));
    assert_eq!(serde_json::from_str::<Value>(&kept[0].record).unwrap(), object);
    assert!(kept[0].reason.contains("notification has no id"), "{}", kept[0].reason);
    // A match of a Retrohunt job needs no notification id.
    let of_job = Reject { origin: "retrohunt/user-1".into(), ..kept[0].clone() };
    let (limits, mut report) = (RunLimits::default(), Report::default());
    let left = hunt.retry(vec![kept[0].clone(), of_job], &limits, &mut report).await.unwrap();
    assert_eq!((left.len(), report.delivered), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_no_files_or_no_hits_cost_themselves_alone() {
    let world = World::new().await;
    let mut url = Hit::file(1, NOW - 60, "rule");
    url.object_type = "url".into();
    world.virustotal.hit(url);
    for bad in [json!(7), json!({"type": "file"}), json!({"type": "file", "id": "ab".repeat(32)})] {
        world.virustotal.malformed_hit(bad, NOW - 50);
    }
    world.virustotal.hit(Hit::file(2, NOW - 40, "rule"));
    let report = run(&world.hunt(&[])).await;
    assert_eq!((report.delivered, report.rejected), (1, 3), "{report:?}");
    assert_eq!(world.mapped().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_begins_a_day_back_or_where_the_go_plugin_was() {
    let world = World::new().await;
    world.virustotal.hit(Hit::file(1, NOW - 25 * 3600, "rule"));
    world.virustotal.hit(Hit::file(2, NOW - 23 * 3600, "rule"));
    assert_eq!(run(&world.hunt(&[])).await.delivered, 1);
    let world = World::new().await;
    world.virustotal.hit(Hit::file(1, NOW - 25 * 3600, "rule"));
    world.virustotal.hit(Hit::file(2, NOW - 27 * 3600, "rule"));
    std::fs::write(world.state.path().join("livehunt"), (NOW - 26 * 3600).to_string()).unwrap();
    assert_eq!(run(&world.hunt(&[])).await.delivered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_virustotal_keeps_no_more_is_said_to_be_lost() {
    let world = World::new().await;
    let hunt = world.hunt(&[]);
    world.hits(1, 60);
    run(&hunt).await;
    world.clock.on(SignedDuration::from_hours(8 * 24));
    let report = run(&hunt).await;
    assert!((24..26).contains(&report.lost_hours), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_run_is_named_and_left_alone() {
    let world = World::new().await;
    let hunt = world.hunt(&[]);
    let store = world.store();
    let now = azul_vt::store::Clock::now(&*world.clock);
    let Grant::Acquired(_lease) = store.leases.acquire(NAME, "another", now).await.unwrap() else {
        panic!("held")
    };
    let report = run(&hunt).await;
    assert!(report.held_by.is_some_and(|owner| owner.contains("another")));
}

#[tokio::test(flavor = "multi_thread")]
async fn matches_of_a_retrohunt_job_come_from_a_source_of_their_own() {
    let world = World::new().await;
    let file = |n: usize| {
        let Hit { id, attributes, .. } = Hit::file(n, NOW, "x");
        let context = json!({"rule_name": "old_rule", "match_in_subfile": false});
        json!({"type": "file", "id": id, "attributes": attributes, "context_attributes": context})
    };
    let files: Vec<Value> = (0..50).map(file).collect();
    world.virustotal.retrohunt("user-123", files);
    let hunt = world.hunt(&[]);
    let job = Trigger::of(&json!({"retrohunt": "user-123"})).unwrap();
    assert!(Trigger::of(&json!({"retrohunt": 7})).is_err());
    let report = hunt.run(&job, &RunLimits::default()).await.unwrap();
    assert_eq!((report.delivered, report.requests), (50, 50));
    assert_eq!(world.position().await, None, "it is no position of Livehunt's");
    let arrived = world.dispatcher.arrived();
    assert!(arrived.of(Model::Binary).all(|e| e.source == "vtretrohunt"));
    assert!(world.requested().iter().all(|(category, _)| category == "vtretrohunt/old_rule"));
    let again = hunt.run(&job, &RunLimits::default()).await.unwrap();
    assert_eq!((again.delivered, again.known), (0, 50));
    world.is_sound();
}
