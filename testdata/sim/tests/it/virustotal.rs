use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, redirect::Policy};
use sim::{Asked, Behaviour, Fault, TEST_KEY, Unknown, VirusTotal};

const MINUTE: &str = "202611240900";

fn client() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

async fn ask(vt: &VirusTotal) -> reqwest::Result<Response> {
    let url = format!("{}/api/v3/feeds/files/{MINUTE}", vt.url());
    client().get(url).header("x-apikey", TEST_KEY).send().await
}

/// Follows the redirect as it should be done: by hand, without the key.
async fn fetch(vt: &VirusTotal) -> reqwest::Result<Bytes> {
    let answer = ask(vt).await?;
    assert_eq!(answer.status(), StatusCode::FOUND);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with(&vt.content_url()));
    client().get(location).send().await?.bytes().await
}

#[tokio::test]
async fn a_bundle_comes_by_a_redirect_to_a_second_origin_that_sees_no_key() {
    let vt = VirusTotal::start().await.unwrap();
    vt.serve(MINUTE, "bundle");
    assert_eq!(fetch(&vt).await.unwrap(), "bundle");
    assert_eq!(vt.key_leaked(), Vec::<String>::new());
    let asked: Vec<Asked> = vt.requests().iter().map(|r| r.asked).collect();
    assert_eq!(asked, [Asked::Feed, Asked::Bundle]);
    assert_eq!(vt.minutes_asked(), [MINUTE]);
}

#[tokio::test]
async fn a_key_that_leaks_is_seen() {
    let vt = VirusTotal::start().await.unwrap();
    vt.serve(MINUTE, "bundle");
    let location = ask(&vt).await.unwrap().headers()["location"].to_str().unwrap().to_owned();
    client().get(location).header("x-apikey", TEST_KEY).send().await.unwrap();
    assert_eq!(vt.key_leaked().len(), 1);
    let user = format!("{}/api/v3/users/{TEST_KEY}", vt.url());
    client().get(user).header("x-apikey", TEST_KEY).send().await.unwrap();
    assert_eq!(vt.key_leaked().len(), 2);
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_401() {
    let vt = VirusTotal::start().await.unwrap();
    vt.serve(MINUTE, "bundle");
    let url = format!("{}/api/v3/feeds/files/{MINUTE}", vt.url());
    let missing = client().get(&url).send().await.unwrap();
    assert_eq!(missing.status(), 401);
    assert!(missing.text().await.unwrap().contains("AuthenticationRequiredError"));
    let wrong = client().get(&url).header("x-apikey", "other").send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(wrong.text().await.unwrap().contains("WrongCredentialsError"));
    vt.set_key("other");
    let right = client().get(&url).header("x-apikey", "other").send().await.unwrap();
    assert_eq!(right.status(), 302);
}

#[tokio::test]
async fn error_answers_come_as_often_as_asked_for_and_then_the_minute_is_normal() {
    let vt = VirusTotal::start().await.unwrap();
    vt.serve(MINUTE, "bundle");
    let table = [
        (Behaviour::Missing, 404, "NotFoundError"),
        (Behaviour::NotAvailableYet, 400, "NotAvailableYet"),
        (Behaviour::Unauthorized, 401, "WrongCredentialsError"),
        (Behaviour::Forbidden, 403, "ForbiddenError"),
        (Behaviour::TooManyRequests(Some(7)), 429, "QuotaExceededError"),
        (Behaviour::TooManyRequests(None), 429, "QuotaExceededError"),
        (Behaviour::ServerError, 500, "<html>"),
        (Behaviour::Transient(None), 503, "TransientError"),
        (Behaviour::DeadlineExceeded, 504, "DeadlineExceededError"),
        (Behaviour::Api(Fault::answer(418, "tea")), 418, "tea"),
    ];
    for (behaviour, ..) in &table {
        vt.behave(MINUTE, behaviour, 2);
    }
    for (behaviour, status, text) in &table {
        for _ in 0..2 {
            let answer = ask(&vt).await.unwrap();
            assert_eq!(answer.status(), *status, "{behaviour:?}");
            let retry = answer.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
            let wanted = matches!(behaviour, Behaviour::TooManyRequests(Some(_)));
            assert_eq!(retry.as_deref(), wanted.then_some("7"));
            assert!(answer.text().await.unwrap().contains(text));
        }
    }
    assert_eq!(fetch(&vt).await.unwrap(), "bundle");
}

#[tokio::test]
async fn bodies_are_spoilt_on_their_way_from_the_second_origin() {
    let vt = VirusTotal::start().await.unwrap();
    let bundle = "b".repeat(100_000);
    vt.serve(MINUTE, bundle.clone());
    for fault in [Fault::TruncateBody, Fault::ResetInBody, Fault::Reset] {
        vt.behave(MINUTE, &Behaviour::Content(fault.clone()), 1);
        assert!(fetch(&vt).await.is_err(), "{fault:?}");
    }
    vt.behave(MINUTE, &Behaviour::Content(Fault::EmptyBody), 1);
    assert_eq!(fetch(&vt).await.unwrap(), "");
    vt.behave(MINUTE, &Behaviour::Content(Fault::FlipByte), 1);
    let flipped = fetch(&vt).await.unwrap();
    let differing = flipped.iter().zip(bundle.bytes()).filter(|(a, b)| **a != *b).count();
    assert_eq!((flipped.len(), differing), (bundle.len(), 1));
    vt.behave(MINUTE, &Behaviour::Content(Fault::Trickle { ms: 1 }), 1);
    assert_eq!(fetch(&vt).await.unwrap(), bundle);
    vt.behave(MINUTE, &Behaviour::Bundle(Bytes::from_static(b"other")), 1);
    assert_eq!(fetch(&vt).await.unwrap(), "other");
    vt.behave(MINUTE, &Behaviour::Api(Fault::Reset), 1);
    assert!(ask(&vt).await.is_err());
    assert_eq!(fetch(&vt).await.unwrap(), bundle);
}

#[tokio::test]
async fn a_body_that_hangs_has_sent_its_first_half() {
    let vt = VirusTotal::start().await.unwrap();
    vt.serve(MINUTE, "b".repeat(1000));
    vt.behave(MINUTE, &Behaviour::Content(Fault::HangInBody), 1);
    let location = ask(&vt).await.unwrap().headers()["location"].to_str().unwrap().to_owned();
    let mut answer = client().get(location).send().await.unwrap();
    assert_eq!(answer.content_length(), Some(1000));
    assert_eq!(answer.chunk().await.unwrap().unwrap().len(), 500);
    let more = tokio::time::timeout(Duration::from_millis(50), answer.chunk()).await;
    assert!(more.is_err(), "nothing more comes");
}

#[tokio::test]
async fn unknown_minutes_are_missing_or_too_early_or_made_up() {
    let vt = VirusTotal::start().await.unwrap();
    assert_eq!(ask(&vt).await.unwrap().status(), 404);
    vt.set_unknown(Unknown::NotAvailableYet);
    assert_eq!(ask(&vt).await.unwrap().status(), 400);
    vt.set_unknown(Unknown::Generate(Arc::new(|minute| Bytes::from(format!("made {minute}")))));
    assert_eq!(fetch(&vt).await.unwrap(), format!("made {MINUTE}"));
    vt.behave(MINUTE, &Behaviour::Missing, usize::MAX);
    assert_eq!(ask(&vt).await.unwrap().status(), 404);
    vt.clear(MINUTE);
    assert_eq!(fetch(&vt).await.unwrap(), format!("made {MINUTE}"));
}

#[tokio::test]
async fn a_user_object_tells_the_privileges_of_its_key() {
    let vt = VirusTotal::start().await.unwrap();
    vt.set_privilege("file-feed", false);
    let get = |path: &str| {
        let request = client().get(format!("{}/api/v3/users/{path}", vt.url()));
        async move {
            let answer = request.header("x-apikey", TEST_KEY).send().await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&answer.bytes().await.unwrap()).unwrap()
        }
    };
    let user = get("me").await;
    assert_eq!(user["data"]["attributes"]["privileges"]["file-feed"]["granted"], false);
    assert_eq!(user["data"]["attributes"]["privileges"]["intelligence"]["granted"], true);
    let quotas = get("me/overall_quotas").await;
    assert!(quotas["data"]["api_requests_daily"]["user"]["allowed"].is_u64());
}

#[tokio::test]
async fn both_origins_can_be_down_and_come_back_on_the_same_ports() {
    let vt = VirusTotal::start().await.unwrap();
    vt.serve(MINUTE, "bundle");
    vt.down().await;
    assert!(ask(&vt).await.unwrap_err().is_connect());
    vt.up().await;
    assert_eq!(fetch(&vt).await.unwrap(), "bundle");
}
