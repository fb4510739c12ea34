//! Sandbox reports and their PCAPs.

use bytes::Bytes;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use sim::{Asked, Behaviour, Fault, TEST_KEY, VirusTotal, lookup};

async fn ask(vt: &VirusTotal, path: &str) -> reqwest::Result<Response> {
    let url = format!("{}/api/v3/{path}", vt.url());
    Client::new().get(url).header("x-apikey", TEST_KEY).send().await
}

async fn list(vt: &VirusTotal, sha256: &str) -> Value {
    let answer = ask(vt, &format!("files/{sha256}/behaviours")).await.unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_file_lists_its_reports_whose_pcaps_come_without_a_redirect() {
    let vt = VirusTotal::start().await.unwrap();
    let sha256 = lookup::sha256(1);
    vt.behaviour(&sha256, "Some Sandbox", 1_800_000_000, Some(Bytes::from_static(b"pcap")));
    vt.behaviour(&sha256, "Other", 1_700_000_000, None);
    let reports = list(&vt, &sha256).await;
    let id = format!("{sha256}_Some Sandbox");
    assert_eq!(
        reports["data"][0],
        json!({"type": "file_behaviour", "id": id, "attributes": {
            "sandbox_name": "Some Sandbox", "analysis_date": 1_800_000_000, "has_pcap": true,
            "has_html_report": false, "has_evtx": false, "has_memdump": false,
        }})
    );
    assert_eq!(reports["data"][1]["attributes"]["has_pcap"], json!(false));
    assert_eq!(reports["data"].as_array().unwrap().len(), 2);
    let pcap = ask(&vt, &format!("file_behaviours/{sha256}_Some%20Sandbox/pcap")).await.unwrap();
    assert_eq!(pcap.headers()["content-type"], "application/vnd.tcpdump.pcap");
    assert_eq!(pcap.bytes().await.unwrap(), "pcap");
    let none = ask(&vt, &format!("file_behaviours/{sha256}_Other/pcap")).await.unwrap();
    assert_eq!(none.status(), 404);
    assert_eq!(list(&vt, &lookup::sha256(2)).await, json!({"data": []}));
    let asked: Vec<_> = vt.requests().into_iter().map(|r| (r.asked, r.subject)).collect();
    let expected = [
        (Asked::Behaviours, sha256.clone()),
        (Asked::Pcap, id),
        (Asked::Pcap, format!("{sha256}_Other")),
        (Asked::Behaviours, lookup::sha256(2)),
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn both_need_the_key() {
    let vt = VirusTotal::start().await.unwrap();
    for path in ["files/x/behaviours", "file_behaviours/x_y/pcap"] {
        let answer = reqwest::get(format!("{}/api/v3/{path}", vt.url())).await.unwrap();
        assert_eq!(answer.status(), 401);
    }
}

#[tokio::test]
async fn lists_and_pcaps_have_scripts_of_their_own() {
    let vt = VirusTotal::start().await.unwrap();
    let (sha256, id) = (lookup::sha256(1), format!("{}_Some Sandbox", lookup::sha256(1)));
    vt.behaviour(&sha256, "Some Sandbox", 1_800_000_000, Some(Bytes::from_static(b"pcap")));
    vt.behave_behaviours(&sha256, &Behaviour::Forbidden, 1);
    vt.behave_behaviours(&sha256, &Behaviour::Bundle(Bytes::from_static(b"{}")), 1);
    vt.behave_pcap(&id, &Behaviour::Missing, 1);
    vt.behave_pcap(&id, &Behaviour::Bundle(Bytes::from_static(b"<html>")), 1);
    vt.behave_pcap(&id, &Behaviour::Content(Fault::TruncateBody), 1);
    vt.behave_pcap(&id, &Behaviour::Api(Fault::Reset), 1);
    let forbidden = ask(&vt, &format!("files/{sha256}/behaviours")).await.unwrap();
    assert_eq!(forbidden.status(), 403);
    assert_eq!(list(&vt, &sha256).await, json!({}));
    assert_eq!(list(&vt, &sha256).await["data"][0]["id"], json!(id));
    let path = format!("file_behaviours/{sha256}_Some%20Sandbox/pcap");
    assert_eq!(ask(&vt, &path).await.unwrap().status(), 404);
    assert_eq!(ask(&vt, &path).await.unwrap().bytes().await.unwrap(), "<html>");
    assert!(ask(&vt, &path).await.unwrap().bytes().await.is_err());
    assert!(ask(&vt, &path).await.is_err());
    assert_eq!(ask(&vt, &path).await.unwrap().bytes().await.unwrap(), "pcap");
    vt.behave_pcap(&id, &Behaviour::ServerError, usize::MAX);
    assert_eq!(ask(&vt, &path).await.unwrap().status(), 500);
    vt.clear_for_sandboxes();
    assert_eq!(ask(&vt, &path).await.unwrap().bytes().await.unwrap(), "pcap");
}
