//! The IoC stream, its older form, retrohunt jobs and rulesets.

use bytes::Bytes;
use reqwest::{Client, Response, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sim::{Asked, Behaviour, Fault, Hit, TEST_KEY, VirusTotal, lookup};

const T: i64 = 1_800_000_000;
const STREAM: &str = "ioc_stream";
const LEGACY: &str = "intelligence/hunting_notification_files";
const RULESETS: &str = "intelligence/hunting_rulesets";

fn client() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

async fn ask(vt: &VirusTotal, path: &str, query: &[(&str, &str)]) -> reqwest::Result<Response> {
    let base = format!("{}/api/v3/{path}", vt.url());
    let url = reqwest::Url::parse_with_params(&base, query).unwrap();
    client().get(url).header("x-apikey", TEST_KEY).send().await
}

async fn page(vt: &VirusTotal, path: &str, query: &[(&str, &str)]) -> Value {
    let answer = ask(vt, path, query).await.unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

/// 400 `BadRequestError`.
async fn bad(vt: &VirusTotal, path: &str, query: &[(&str, &str)]) -> bool {
    let answer = ask(vt, path, query).await.unwrap();
    answer.status() == 400 && answer.text().await.unwrap().contains("BadRequestError")
}

/// All pages of that query.
async fn pages(vt: &VirusTotal, path: &str, query: &[(&str, &str)]) -> Vec<Value> {
    let mut pages = vec![page(vt, path, query).await];
    while let Some(cursor) = pages.last().unwrap()["meta"]["cursor"].as_str() {
        let query = [query, &[("cursor", cursor)]].concat();
        pages.push(page(vt, path, &query).await);
    }
    pages
}

fn objects(pages: &[Value]) -> Vec<&Value> {
    pages.iter().flat_map(|page| page["data"].as_array().unwrap()).collect()
}

fn dates(pages: &[Value]) -> Vec<i64> {
    let date = |object: &Value| object["context_attributes"]["notification_date"].as_i64().unwrap();
    objects(pages).into_iter().map(|object| date(object) - T).collect()
}

fn sizes(pages: &[Value]) -> Vec<usize> {
    pages.iter().map(|page| page["data"].as_array().unwrap().len()).collect()
}

/// Hits at those dates after T.
async fn with_hits(dates: &[i64]) -> VirusTotal {
    let vt = VirusTotal::start().await.unwrap();
    for (n, date) in dates.iter().enumerate() {
        vt.hit(Hit::file(n, T + date, "some_rule"));
    }
    vt
}

fn hit(id: &str, date: i64) -> Hit {
    Hit { notification_id: id.to_owned(), ..Hit::file(1, T + date, "some_rule") }
}

#[tokio::test]
async fn a_hit_is_told_as_the_stream_and_as_the_older_route_tell_it() {
    let vt = VirusTotal::start().await.unwrap();
    let sha256 = vt.sample(lookup::sample(1));
    let hit = Hit { source_key: Some("abcd".to_owned()), ..hit("n1", 0) };
    assert_eq!(hit.id, sha256);
    vt.hit(hit.clone());
    let told = page(&vt, STREAM, &[]).await;
    let url = format!("{}/api/v3/ioc_stream", vt.url());
    assert_eq!(told["meta"], json!({"count": 1}));
    assert_eq!(told["links"], json!({"self": url}));
    let attributes = json!({
        "sha256": sha256, "size": lookup::sample(1).len(), "type_tag": "peexe",
        "last_analysis_date": T, "last_analysis_stats": {"malicious": 5},
        "names": ["sample_1.exe"], "tags": ["peexe"],
    });
    let context = json!({
        "notification_id": "n1", "notification_date": T, "origin": "hunting",
        "sources": [{"type": "hunting_ruleset", "id": hit.ruleset.0, "label": hit.ruleset.1}],
        "tags": ["some_rule", "synthetic"],
        "hunting_info": {
            "rule_name": "some_rule", "rule_tags": ["hunted"], "snippet": hit.snippet,
            "source_country": null, "source_key": "abcd",
            "match_source": "ORIGINAL_FILE",
        },
    });
    let object = json!({
        "type": "file", "id": sha256, "attributes": attributes, "context_attributes": context,
    });
    assert_eq!(told["data"], json!([object]));
    let context = json!({
        "notification_id": "n1", "notification_date": T,
        "notification_tags": ["some_rule", "synthetic"], "notification_snippet": hit.snippet,
        "notification_source_key": "abcd", "rule_name": "some_rule", "rule_tags": ["hunted"],
        "ruleset_id": hit.ruleset.0, "ruleset_name": hit.ruleset.1, "match_in_subfile": false,
    });
    let object = json!({
        "type": "file", "id": sha256, "attributes": attributes, "context_attributes": context,
    });
    assert_eq!(page(&vt, LEGACY, &[]).await["data"], json!([object]));
    let download = ask(&vt, &format!("files/{}/download", hit.id), &[]).await.unwrap();
    assert_eq!(download.status(), 302);
}

#[test]
fn hits_differ_where_anything_of_them_does() {
    let id = |n, date, rule| Hit::file(n, date, rule).notification_id;
    assert_eq!(id(1, T, "a"), id(1, T, "a"));
    for other in [id(2, T, "a"), id(1, T + 1, "a"), id(1, T, "b")] {
        assert_ne!(id(1, T, "a"), other);
    }
    let even = Hit::file(2, T, "a");
    assert_eq!(even.id, hex::encode(Sha256::digest(lookup::sample(2))));
    assert_eq!(even.attributes["type_tag"], "pdf");
}

#[tokio::test]
async fn the_stream_is_paged_in_both_orders() {
    let days: Vec<i64> = (0..25).map(|n| n * 7 % 25).collect();
    let vt = with_hits(&days).await;
    let newest_first = pages(&vt, STREAM, &[]).await;
    assert_eq!(sizes(&newest_first), [10, 10, 5]);
    assert_eq!(dates(&newest_first), (0..25).rev().collect::<Vec<_>>());
    let said = pages(&vt, STREAM, &[("order", "date-")]).await;
    assert_eq!(dates(&newest_first), dates(&said));
    let oldest_first = pages(&vt, STREAM, &[("order", "date+"), ("limit", "5")]).await;
    assert_eq!(sizes(&oldest_first), [5, 5, 5, 5, 5]);
    assert_eq!(dates(&oldest_first), (0..25).collect::<Vec<_>>());
    assert!(oldest_first.iter().all(|page| page["meta"]["count"] == 25));
    assert_eq!(sizes(&pages(&vt, STREAM, &[("limit", "40")]).await), [25]);
    let next = oldest_first[0]["links"]["next"].as_str().unwrap();
    let next = client().get(next).header("x-apikey", TEST_KEY).send().await.unwrap();
    let next: Value = serde_json::from_slice(&next.bytes().await.unwrap()).unwrap();
    assert_eq!(next["data"], oldest_first[1]["data"]);
    let asked = vt.hunting_asked();
    assert_eq!(asked[0], STREAM);
    let cursor = newest_first[0]["meta"]["cursor"].as_str().unwrap();
    assert_eq!(asked[1], format!("{STREAM}?cursor={cursor}"));
    assert!(vt.requests().iter().all(|request| request.asked == Asked::Hunting));
}

#[tokio::test]
async fn hits_of_one_second_are_ordered_by_their_ids_and_none_is_lost_between_pages() {
    let vt = VirusTotal::start().await.unwrap();
    for id in ["c", "a", "b", "b", "d"] {
        vt.hit(hit(id, 0));
    }
    let ids = |pages: &[Value]| -> String {
        let id =
            |o: &Value| o["context_attributes"]["notification_id"].as_str().unwrap().to_owned();
        objects(pages).into_iter().map(id).collect()
    };
    let query = [("order", "date+"), ("limit", "1")];
    assert_eq!(ids(&pages(&vt, STREAM, &query).await), "abbcd");
    assert_eq!(ids(&pages(&vt, STREAM, &[("limit", "2")]).await), "dcbba");
}

#[tokio::test]
async fn the_filter_of_the_date_includes_its_bound() {
    let vt = with_hits(&[0, 1, 2, 3]).await;
    let filtered = async |filter: &str| {
        let query = [("order", "date+"), ("filter", filter), ("limit", "1")];
        dates(&pages(&vt, STREAM, &query).await)
    };
    assert_eq!(filtered(&format!("date:{}+", T + 2)).await, [2, 3]);
    assert_eq!(filtered(&format!("date:{}-", T + 2)).await, [0, 1, 2]);
    assert_eq!(filtered(&format!("date:{}+ date:{}-", T + 1, T + 2)).await, [1, 2]);
    assert_eq!(filtered(&format!("date:{}+", T + 4)).await, [0; 0]);
    // T is 2027-01-15T08:00:00Z.
    assert_eq!(filtered("date:2027-01-15T08:00:03Z+").await, [3]);
    assert_eq!(filtered("date:2027-01-15T08:00:03+").await, [3]);
    assert_eq!(filtered("date:2027-01-15T08:00:00-").await, [0]);
    assert_eq!(filtered("date:2027-01-15+").await, [0, 1, 2, 3]);
    assert_eq!(filtered("date:2027-01-16+").await, [0; 0]);
}

#[tokio::test]
async fn the_filter_knows_types_and_origins() {
    let vt = with_hits(&[0]).await;
    let url = Hit { object_type: "url".to_owned(), id: "u".to_owned(), ..hit("n", 1) };
    vt.hit(url);
    let filtered = async |filter| dates(&pages(&vt, STREAM, &[("filter", filter)]).await);
    assert_eq!(filtered("origin:hunting").await, [1, 0]);
    assert_eq!(filtered("origin:hunting entity_type:file").await, [0]);
    assert_eq!(filtered("entity_type:url").await, [1]);
    assert_eq!(filtered("entity_type:domain").await, [0; 0]);
    assert_eq!(filtered("origin:subscriptions").await, [0; 0]);
    assert_eq!(dates(&pages(&vt, LEGACY, &[]).await), [0]);
}

#[tokio::test]
async fn a_hit_may_come_late() {
    let vt = with_hits(&[10, 20, 30]).await;
    let query = [("order", "date+"), ("limit", "2")];
    let first = page(&vt, STREAM, &query).await;
    let cursor = first["meta"]["cursor"].as_str().unwrap();
    vt.hit(hit("late", 5));
    vt.hit(hit("between", 25));
    let rest = [query[0], query[1], ("cursor", cursor)];
    assert_eq!(dates(&[page(&vt, STREAM, &rest).await]), [25, 30]);
    assert_eq!(dates(&pages(&vt, STREAM, &query).await), [5, 10, 20, 25, 30]);
}

#[tokio::test]
async fn a_malformed_entry_comes_as_given() {
    let vt = with_hits(&[0, 2]).await;
    let strange = json!({"type": "url", "id": 7});
    vt.malformed_hit(strange.clone(), T + 1);
    vt.malformed_hit(json!("text"), T + 3);
    let filter = ("filter", "origin:hunting entity_type:file");
    for path in [STREAM, LEGACY] {
        let told = pages(&vt, path, &[filter, ("limit", "1")]).await;
        assert_eq!(sizes(&told), [1, 1, 1, 1]);
        assert_eq!((objects(&told)[0], objects(&told)[2]), (&json!("text"), &strange));
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let vt = with_hits(&[0]).await;
    vt.retrohunt("j", vec![]);
    for path in [STREAM, LEGACY, RULESETS, "intelligence/retrohunt_jobs/j/matching_files"] {
        for query in [("limit", "41"), ("limit", "0"), ("limit", "x"), ("cursor", "x")] {
            assert!(bad(&vt, path, &[query]).await, "{path} {query:?}");
        }
        assert_eq!(ask(&vt, path, &[("limit", "40")]).await.unwrap().status(), 200);
    }
    for filter in
        ["x", "x:y", "origin:x", "entity_type:x", "date:1800000000", "date:+", "date:today+"]
    {
        assert!(bad(&vt, STREAM, &[("filter", filter)]).await, "{filter}");
    }
    for order in ["date", "date ", "id+"] {
        assert!(bad(&vt, STREAM, &[("order", order)]).await, "{order}");
    }
}

#[tokio::test]
async fn the_older_route_is_paged_newest_first() {
    let vt = with_hits(&[2, 0, 4, 1, 3]).await;
    let told = pages(&vt, LEGACY, &[("limit", "2")]).await;
    assert_eq!(sizes(&told), [2, 2, 1]);
    assert_eq!(dates(&told), [4, 3, 2, 1, 0]);
    let asked = vt.hunting_asked();
    assert_eq!(asked[0], "hunting_notification_files");
    assert!(asked[2].starts_with("hunting_notification_files?cursor="));
}

#[tokio::test]
async fn a_retrohunt_job_lists_its_files() {
    let vt = VirusTotal::start().await.unwrap();
    let file = |n| {
        let context = json!({"rule_name": "r", "match_in_subfile": true});
        json!({"type": "file", "id": lookup::sha256(n), "context_attributes": context})
    };
    vt.retrohunt("user-1", (0..5).map(file).collect());
    let path = |job| format!("intelligence/retrohunt_jobs/{job}/matching_files");
    let told = pages(&vt, &path("user-1"), &[("limit", "2")]).await;
    assert_eq!(sizes(&told), [2, 2, 1]);
    let expected: Vec<Value> = (0..5).map(file).collect();
    assert_eq!(objects(&told), expected.iter().collect::<Vec<_>>());
    let unknown = ask(&vt, &path("user-2"), &[]).await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert!(unknown.text().await.unwrap().contains("NotFoundError"));
    vt.retrohunt("user-1", vec![]);
    assert_eq!(page(&vt, &path("user-1"), &[]).await["data"], json!([]));
    assert_eq!(vt.hunting_asked()[0], "matching_files");
}

#[tokio::test]
async fn rulesets_are_listed_with_whether_they_are_rate_limited() {
    let vt = VirusTotal::start().await.unwrap();
    assert_eq!(page(&vt, RULESETS, &[]).await["data"], json!([]));
    vt.ruleset("2", "second", false);
    vt.ruleset("1", "first", false);
    vt.ruleset("2", "second", true);
    let told = pages(&vt, RULESETS, &[("limit", "1")]).await;
    assert_eq!(sizes(&told), [1, 1]);
    let ruleset = |id, name, rate_limited| {
        json!({"type": "hunting_ruleset", "id": id, "attributes": {
            "name": name, "enabled": true, "limit": 100, "rate_limited": rate_limited,
        }})
    };
    assert_eq!(objects(&told), [&ruleset("1", "first", false), &ruleset("2", "second", true)]);
}

#[tokio::test]
async fn all_routes_share_a_script() {
    let vt = with_hits(&[0]).await;
    vt.behave_hunting(&Behaviour::TooManyRequests(Some(7)), 1);
    vt.behave_hunting(&Behaviour::Forbidden, 1);
    vt.behave_hunting(&Behaviour::Bundle(Bytes::from_static(b"{}")), 1);
    vt.behave_hunting(&Behaviour::Content(Fault::TruncateBody), 1);
    vt.behave_hunting(&Behaviour::Api(Fault::Reset), 1);
    assert_eq!(ask(&vt, STREAM, &[]).await.unwrap().headers()["retry-after"], "7");
    assert_eq!(ask(&vt, LEGACY, &[]).await.unwrap().status(), 403);
    assert_eq!(page(&vt, RULESETS, &[]).await, json!({}));
    assert!(ask(&vt, STREAM, &[]).await.unwrap().bytes().await.is_err());
    assert!(ask(&vt, STREAM, &[]).await.is_err());
    assert_eq!(dates(&[page(&vt, STREAM, &[]).await]), [0]);
    vt.behave_hunting(&Behaviour::ServerError, usize::MAX);
    assert_eq!(ask(&vt, STREAM, &[]).await.unwrap().status(), 500);
    vt.clear_for_hunting();
    assert_eq!(dates(&[page(&vt, STREAM, &[]).await]), [0]);
}

#[tokio::test]
async fn a_peer_can_repeat_its_first_page() {
    let vt = with_hits(&[0, 1, 2]).await;
    vt.repeat_cursor(true);
    let query = [("order", "date+"), ("limit", "2")];
    let first = page(&vt, STREAM, &query).await;
    let cursor = first["meta"]["cursor"].as_str().unwrap();
    let again = page(&vt, STREAM, &[query[0], query[1], ("cursor", cursor)]).await;
    assert_eq!((dates(std::slice::from_ref(&first)), &first["data"]), (vec![0, 1], &again["data"]));
    assert_eq!(first["meta"], again["meta"]);
    let all = page(&vt, STREAM, &[("limit", "40")]).await;
    assert_eq!(all["meta"]["cursor"].as_str(), Some(cursor));
    assert_eq!(sizes(&pages(&vt, LEGACY, &[("limit", "2")]).await), [2, 1]);
    vt.repeat_cursor(false);
    assert_eq!(dates(&pages(&vt, STREAM, &query).await), [0, 1, 2]);
}

#[tokio::test]
async fn all_need_the_key() {
    let vt = VirusTotal::start().await.unwrap();
    for path in [STREAM, LEGACY, RULESETS, "intelligence/retrohunt_jobs/j/matching_files"] {
        let url = format!("{}/api/v3/{path}", vt.url());
        assert_eq!(reqwest::get(&url).await.unwrap().status(), 401);
        let wrong = client().get(&url).header("x-apikey", "wrong").send().await.unwrap();
        assert_eq!(wrong.status(), 401);
    }
    assert_eq!(vt.hunting_asked().len(), 8);
}
