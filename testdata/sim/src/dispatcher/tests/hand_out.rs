//! Polling groups and streams.

use serde_json::{Value, json};

use super::*;

/// One poll's info and events. A deadline of a second is the shortest there is.
async fn poll(dispatcher: &Dispatcher, path: &str, query: &str) -> (Value, Vec<Value>) {
    let url = format!("{}/api/v2/event/{path}?{query}", dispatcher.url());
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), 200);
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
    let body = response.text().await.unwrap();
    let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 4);
    let content = |part: &str, name: &str| {
        let (head, content) = part.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("name=\"{name}\"")), "{head}");
        serde_json::from_str::<Value>(content.trim_end()).unwrap()
    };
    let events = content(parts[2], "events");
    (content(parts[1], "info"), events["events"].as_array().unwrap().clone())
}

#[tokio::test]
async fn a_group_hands_each_event_out_once_and_other_groups_have_their_own() {
    let dispatcher = Dispatcher::start().await.unwrap();
    send_avro(&dispatcher, Model::Binary, &[mapped(1), mapped(2), mapped(3)]).await;
    let all = "name=p&version=1&r-historic=true&deadline=1&count=2";
    let (info, first) = poll(&dispatcher, "binary/active", all).await;
    assert_eq!((&info["fetched"], &info["paused"]), (&json!(2), &json!(false)));
    let (_, second) = poll(&dispatcher, "binary/passive", all).await;
    assert_eq!((first.len(), second.len()), (2, 1), "active and passive share a group");
    let key = first[0]["kafka_key"].as_str().unwrap();
    assert!(first[0]["dequeued"].as_str().unwrap().starts_with(&format!("{key}.p.1.")));
    assert!(second[0].get("dequeued").is_none());
    let other = "name=p&version=2&r-historic=true&deadline=1&count=3";
    assert_eq!(poll(&dispatcher, "binary/active", other).await.1.len(), 3);
    let live = "name=p&version=3&r-live=true&deadline=1";
    assert!(poll(&dispatcher, "binary/active", live).await.1.is_empty());
    send_avro(&dispatcher, Model::Binary, &[mapped(4)]).await;
    assert_eq!(poll(&dispatcher, "binary/active", live).await.1.len(), 1);
    let both = "name=p&version=4&r-live=true&r-historic=true&deadline=1&count=9";
    assert_eq!(poll(&dispatcher, "binary/active", both).await.1.len(), 4);
    send_avro(&dispatcher, Model::Binary, &[mapped(5)]).await;
    assert_eq!(poll(&dispatcher, "binary/active", both).await.1.len(), 2, "handed out twice");
}

#[tokio::test]
async fn polls_filter_by_source_action_and_author() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let mut sample = mapped(2);
    sample["source"]["name"] = json!("samples");
    sample["author"]["name"] = json!("other");
    send_avro(&dispatcher, Model::Binary, &[mapped(1), sample]).await;
    let hashes = |events: Vec<Value>| -> Vec<String> {
        events.iter().map(|e| validate::text(e, "/entity/sha256").to_owned()).collect()
    };
    let base = "version=1&r-historic=true&deadline=1&count=5";
    let get = |extra: &'static str| poll(&dispatcher, "binary/active", extra);
    let (info, events) =
        get("name=a&version=1&r-historic=true&deadline=1&r-source=samples&r-source=x").await;
    assert_eq!((hashes(events), &info["filters"]["r-source"]), (vec![sha(2)], &json!(1)));
    let query = format!("name=VirustotalFileFeed&{base}&d-self=true");
    let (_, events) = poll(&dispatcher, "binary/active", &query).await;
    assert_eq!(hashes(events), [sha(2)]);
    let query = format!("name=c&{base}&d-action=mapped");
    assert!(poll(&dispatcher, "binary/active", &query).await.1.is_empty());
    for bad in [
        "binary/active?name=a",
        "download/active?name=a&r-live=true&d-action=mapped",
        "download/active?name=a&r-expedite=true",
        "binary/active?r-live=maybe",
        "nothing/active?r-live=true",
    ] {
        let url = format!("{}/api/v2/event/{bad}", dispatcher.url());
        assert_eq!(reqwest::get(url).await.unwrap().status(), 422, "{bad}");
    }
}

#[tokio::test]
async fn an_event_that_comes_while_the_client_is_gone_is_lost() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let query = "name=p&version=1&r-live=true&deadline=1&count=1";
    assert!(poll(&dispatcher, "download/passive", query).await.1.is_empty());
    let impatient =
        reqwest::Client::builder().timeout(std::time::Duration::from_millis(100)).build().unwrap();
    let url = format!("{}/api/v2/event/download/passive?{query}", dispatcher.url());
    assert!(impatient.get(url).send().await.unwrap_err().is_timeout());
    send_avro(&dispatcher, Model::Download, &[requested(1)]).await;
    assert!(poll(&dispatcher, "download/passive", query).await.1.is_empty());
}

#[tokio::test]
async fn active_polls_come_back_at_once_while_azul_reprocesses() {
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.set_paused(true);
    let (info, events) =
        poll(&dispatcher, "binary/active", "name=p&r-historic=true&deadline=3600").await;
    assert_eq!((&info["paused"], events.len()), (&json!(true), 0));
}

#[tokio::test]
async fn polled_events_come_as_avro_too() {
    let dispatcher = Dispatcher::start().await.unwrap();
    send_avro(&dispatcher, Model::Binary, &[mapped(1)]).await;
    let url = format!(
        "{}/api/v2/event/binary/passive?name=p&r-historic=true&deadline=1&avro-format=true",
        dispatcher.url()
    );
    let body = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    let part = body.windows(11).rposition(|w| w == b"events.json").unwrap();
    let start = part + body[part..].windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let bulk = decode::avro(Model::Binary, &body[start..]).unwrap();
    assert_eq!(bulk.events[0]["entity"], mapped(1)["entity"]);
}

#[tokio::test]
async fn streams_are_stored_checked_and_given_back() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let client = reqwest::Client::new();
    let url = format!("{}/api/v3/stream/virustotal/content", dispatcher.url());
    let put =
        |query: String, body: &'static str| client.post(format!("{url}?{query}")).body(body).send();
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let answer = put(format!("expected-sha256={sha256}"), "abc").await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let data = &answer["data"];
    assert_eq!((&data["sha256"], &data["size"]), (&json!(sha256), &json!(3)));
    assert_eq!(data["md5"], json!("900150983cd24fb0d6963f7d28e17f72"));
    assert_eq!(data["sha1"], json!("a9993e364706816aba3e25717850c26c9cd0d89d"));
    assert_eq!(data["label"], json!("content"));
    assert_eq!(
        put(format!("expected-sha256={}", sha256.to_uppercase()), "abc").await.unwrap().status(),
        400
    );
    assert_eq!(put(String::new(), "").await.unwrap().status(), 400);
    let head =
        |path: String| client.head(format!("{}/api/v3/stream/{path}", dispatcher.url())).send();
    assert_eq!(head(format!("virustotal/content/{sha256}")).await.unwrap().status(), 200);
    for absent in [
        format!("virustotal/pcap/{sha256}"),
        format!("samples/content/{sha256}"),
        format!("virustotal/content/{}", sha256.to_uppercase()),
    ] {
        assert_eq!(head(absent).await.unwrap().status(), 404);
    }
    let get =
        |range: &'static str| client.get(format!("{url}/{sha256}")).header("range", range).send();
    let part = get("bytes=1-").await.unwrap();
    assert_eq!((part.status().as_u16(), part.text().await.unwrap().as_str()), (206, "bc"));
    assert_eq!(get("bytes=0-0").await.unwrap().headers()["content-range"], "bytes 0-0/3");
    assert_eq!(get("bytes=9-").await.unwrap().status(), 416);
    assert_eq!(dispatcher.stream("virustotal", "content", sha256).unwrap(), "abc");
    dispatcher.fail_streams(&Fault::answer(500, "disk"), 1);
    assert_eq!(get("bytes=0-").await.unwrap().status(), 500);
}
