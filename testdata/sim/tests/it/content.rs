//! Files' content: by link, by hash, and at the second origin.

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, redirect::Policy};
use sha2::{Digest, Sha256};
use sim::{Asked, Behaviour, Fault, TEST_KEY, VirusTotal, lookup};

fn client() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

async fn ask(url: &str) -> reqwest::Result<Response> {
    client().get(url).header("x-apikey", TEST_KEY).send().await
}

fn by_hash(vt: &VirusTotal, sha256: &str) -> String {
    format!("{}/api/v3/files/{sha256}/download", vt.url())
}

fn location(answer: &Response) -> String {
    assert_eq!(answer.status(), StatusCode::FOUND);
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// Follows the redirect as it should be done: by hand, without the key.
async fn follow(url: &str) -> reqwest::Result<Response> {
    client().get(location(&ask(url).await?)).send().await
}

async fn fetch(url: &str) -> reqwest::Result<Bytes> {
    follow(url).await?.bytes().await
}

#[tokio::test]
async fn content_comes_by_link_and_by_hash_from_a_second_origin_that_sees_no_key() {
    let vt = VirusTotal::start().await.unwrap();
    let sha256 = vt.sample("abc");
    assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(!vt.link(&sha256).contains(&sha256));
    assert_eq!(fetch(&vt.link(&sha256)).await.unwrap(), "abc");
    assert_eq!(fetch(&by_hash(&vt, &sha256)).await.unwrap(), "abc");
    let target = location(&ask(&vt.link(&sha256)).await.unwrap());
    assert!(target.starts_with(&format!("{}/content/{sha256}?", vt.content_url())), "{target}");
    let asked: Vec<_> = vt.requests().iter().map(|r| (r.asked, r.subject.clone())).collect();
    let order = [Asked::Link, Asked::Content, Asked::Download, Asked::Content, Asked::Link];
    assert_eq!(asked, order.map(|asked| (asked, sha256.clone())));
    assert_eq!(vt.links_asked(), [sha256.clone(), sha256.clone()]);
    assert_eq!(vt.downloads_asked(), [sha256]);
    assert_eq!(vt.key_leaked(), Vec::<String>::new());
}

#[tokio::test]
async fn content_is_refused_without_the_key_and_missing_where_nobody_has_it() {
    let vt = VirusTotal::start().await.unwrap();
    let (known, unknown) = (vt.sample("abc"), lookup::sha256(1));
    for url in [vt.link(&known), by_hash(&vt, &known)] {
        assert_eq!(client().get(url).send().await.unwrap().status(), 401);
    }
    let strange = format!("{}/api/v3/feeds/files/strange/download", vt.url());
    for url in [vt.link(&unknown), by_hash(&vt, &unknown), strange] {
        let answer = ask(&url).await.unwrap();
        assert_eq!(answer.status(), 404);
        assert!(answer.text().await.unwrap().contains("NotFoundError"));
    }
    let object = format!("{}/content/{unknown}", vt.content_url());
    assert_eq!(client().get(object).send().await.unwrap().status(), 404);
    assert_eq!(vt.links_asked(), [known, unknown, "strange".to_owned()]);
}

#[tokio::test]
async fn a_key_that_leaks_to_the_content_is_seen() {
    let vt = VirusTotal::start().await.unwrap();
    let target = location(&ask(&vt.link(&vt.sample("abc"))).await.unwrap());
    client().get(&target).header("x-apikey", "any").send().await.unwrap();
    assert_eq!(vt.key_leaked().len(), 1);
    client().get(&target).header("referer", format!("/?{TEST_KEY}")).send().await.unwrap();
    assert_eq!(vt.key_leaked().len(), 2);
    client().get(format!("{target}&key={TEST_KEY}")).send().await.unwrap();
    assert_eq!(vt.key_leaked().len(), 3);
}

#[tokio::test]
async fn a_peer_can_lie_about_a_hash() {
    let vt = VirusTotal::start().await.unwrap();
    vt.sample_as(&lookup::sha256(1), "something else");
    assert_eq!(fetch(&vt.link(&lookup::sha256(1))).await.unwrap(), "something else");
}

/// The size and the SHA-256 of what arrives.
async fn measure(url: &str) -> (u64, String) {
    let mut answer = follow(url).await.unwrap();
    let (announced, mut size, mut hash) = (answer.content_length().unwrap(), 0, Sha256::new());
    while let Some(piece) = answer.chunk().await.unwrap() {
        size += piece.len() as u64;
        hash.update(&piece);
    }
    assert_eq!(announced, size);
    (size, hex::encode(hash.finalize()))
}

#[tokio::test]
async fn a_large_sample_arrives_as_its_hash_says_each_time() {
    let vt = VirusTotal::start().await.unwrap();
    for size in [0, 1, 65_536, 5_000_003] {
        let sha256 = vt.large_sample(size, 7);
        assert_eq!(measure(&vt.link(&sha256)).await, (size, sha256.clone()));
        assert_eq!(measure(&by_hash(&vt, &sha256)).await, (size, sha256.clone()));
        assert_eq!(vt.large_sample(size, 7), sha256);
    }
    assert_ne!(vt.large_sample(100, 7), vt.large_sample(100, 8));
}

#[tokio::test]
async fn a_large_body_is_spoilt_as_a_small_one_is() {
    let vt = VirusTotal::start().await.unwrap();
    let sha256 = vt.large_sample(1_000_001, 7);
    let whole = fetch(&vt.link(&sha256)).await.unwrap();
    let content = |fault| vt.behave_link(&sha256, &Behaviour::Content(fault), 1);
    content(Fault::FlipByte);
    let flipped = fetch(&vt.link(&sha256)).await.unwrap();
    let differing: Vec<usize> = (0..whole.len()).filter(|i| whole[*i] != flipped[*i]).collect();
    assert_eq!((flipped.len(), differing), (whole.len(), vec![500_000]));
    content(Fault::Trickle { ms: 1 });
    assert_eq!(fetch(&vt.link(&sha256)).await.unwrap(), whole);
    for fault in [Fault::TruncateBody, Fault::ResetInBody] {
        content(fault.clone());
        let mut answer = follow(&vt.link(&sha256)).await.unwrap();
        assert_eq!(answer.content_length(), Some(1_000_001));
        let mut arrived = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            arrived.extend_from_slice(&piece);
        }
        assert!(arrived.len() <= 500_000 && whole.starts_with(&arrived), "{fault:?}");
    }
}

#[tokio::test]
async fn links_and_hashes_have_scripts_of_their_own_for_both_origins() {
    let vt = VirusTotal::start().await.unwrap();
    let sha256 = vt.sample("abcdef");
    let (link, hash) = (vt.link(&sha256), by_hash(&vt, &sha256));
    vt.behave_link(&sha256, &Behaviour::Forbidden, 1);
    vt.behave_link(&sha256, &Behaviour::Content(Fault::TruncateBody), 1);
    vt.behave_link(&sha256, &Behaviour::Content(Fault::EmptyBody), 1);
    vt.behave_link(&sha256, &Behaviour::Content(Fault::answer(410, "expired")), 1);
    vt.behave_download(&sha256, &Behaviour::Bundle(Bytes::from_static(b"other")), 1);
    vt.behave_download(&sha256, &Behaviour::TooManyRequests(Some(7)), 1);
    assert_eq!(fetch(&hash).await.unwrap(), "other");
    assert_eq!(ask(&hash).await.unwrap().headers()["retry-after"], "7");
    assert_eq!(fetch(&hash).await.unwrap(), "abcdef");
    assert_eq!(ask(&link).await.unwrap().status(), 403);
    let mut half = follow(&link).await.unwrap();
    assert_eq!(
        (half.content_length(), half.chunk().await.unwrap().unwrap().as_ref()),
        (Some(6), &b"abc"[..])
    );
    assert!(half.chunk().await.is_err());
    assert_eq!(fetch(&hash).await.unwrap(), "abcdef");
    assert_eq!(fetch(&link).await.unwrap(), "");
    assert_eq!(follow(&link).await.unwrap().status(), 410);
    assert_eq!(fetch(&link).await.unwrap(), "abcdef");
}

#[tokio::test]
async fn any_download_has_a_script_that_a_files_own_precedes() {
    let vt = VirusTotal::start().await.unwrap();
    let (first, second) = (vt.sample("first"), vt.sample("second"));
    vt.behave_any_download(&Behaviour::Content(Fault::EmptyBody), 1);
    vt.behave_any_download(&Behaviour::ServerError, usize::MAX);
    vt.behave_download(&first, &Behaviour::Transient(None), 1);
    assert_eq!(ask(&by_hash(&vt, &first)).await.unwrap().status(), 503);
    assert_eq!(fetch(&by_hash(&vt, &first)).await.unwrap(), "");
    for sha256 in [&first, &second, &lookup::sha256(1)] {
        assert_eq!(ask(&by_hash(&vt, sha256)).await.unwrap().status(), 500);
    }
    assert_eq!(fetch(&vt.link(&second)).await.unwrap(), "second");
    vt.clear_for_content();
    assert_eq!(fetch(&by_hash(&vt, &second)).await.unwrap(), "second");
}

#[tokio::test]
async fn redirects_lead_where_they_are_told_to() {
    let vt = VirusTotal::start().await.unwrap();
    let sha256 = vt.sample("abc");
    let elsewhere = Behaviour::RedirectTo("https://elsewhere.test/x?y".to_owned());
    vt.behave_link(&sha256, &elsewhere, 1);
    vt.behave_download(&sha256, &elsewhere, 1);
    vt.serve("202611240900", "bundle");
    vt.behave("202611240900", &elsewhere, 1);
    let minute = format!("{}/api/v3/feeds/files/202611240900", vt.url());
    for url in [vt.link(&sha256), by_hash(&vt, &sha256), minute] {
        assert_eq!(location(&ask(&url).await.unwrap()), "https://elsewhere.test/x?y");
        assert!(location(&ask(&url).await.unwrap()).starts_with(&vt.content_url()));
    }
}
