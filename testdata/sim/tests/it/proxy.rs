use reqwest::Client;
use sim::{Chaos, Dispatcher, Mode, Proxy, Through};

#[tokio::test]
async fn plain_requests_go_through_the_proxy_and_are_counted() {
    let (proxy, dispatcher) = (Proxy::start().await.unwrap(), Dispatcher::start().await.unwrap());
    let client =
        Client::builder().proxy(reqwest::Proxy::all(proxy.url()).unwrap()).build().unwrap();
    for _ in 0..2 {
        let text = client.get(dispatcher.url()).send().await.unwrap().text().await.unwrap();
        assert_eq!(text, "Azul Dispatcher");
    }
    let body = "x".repeat(1_000_000);
    let posted = client
        .post(format!("{}/api/v2/event?model=binary", dispatcher.url()))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), 422);
    assert_eq!(dispatcher.posts()[0].size_bytes, 1_000_000);
    let host = dispatcher.url().trim_start_matches("http://").to_owned();
    let get = Through { method: "GET".to_owned(), host: host.clone() };
    let post = Through { method: "POST".to_owned(), host };
    assert_eq!(proxy.through(), [get.clone(), get, post]);
}

#[tokio::test]
async fn connect_opens_a_tunnel() {
    let (proxy, dispatcher) = (Proxy::start().await.unwrap(), Dispatcher::start().await.unwrap());
    let host = dispatcher.url().trim_start_matches("http://").to_owned();
    let client =
        Client::builder().proxy(reqwest::Proxy::https(proxy.url()).unwrap()).build().unwrap();
    // The other end speaks no TLS, so the request fails, but only after the tunnel was made.
    assert!(client.get(format!("https://{host}/")).send().await.is_err());
    assert_eq!(proxy.through(), [Through { method: "CONNECT".to_owned(), host }]);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_502() {
    let proxy = Proxy::start().await.unwrap();
    let dispatcher = Dispatcher::start().await.unwrap();
    dispatcher.down().await;
    let client =
        Client::builder().proxy(reqwest::Proxy::all(proxy.url()).unwrap()).build().unwrap();
    assert_eq!(client.get(dispatcher.url()).send().await.unwrap().status(), 502);
}

#[tokio::test]
async fn chaos_cuts_what_it_is_told_to_cut() {
    let dispatcher = Dispatcher::start().await.unwrap();
    let chaos = Chaos::start(&dispatcher.url()).await.unwrap();
    let get = || async { reqwest::get(chaos.url()).await?.text().await };
    assert_eq!(get().await.unwrap(), "Azul Dispatcher");
    for mode in [Mode::Refuse, Mode::CutRequestAfter(5), Mode::CutResponseAfter(30)] {
        chaos.set(mode);
        assert!(get().await.is_err(), "{mode:?}");
    }
    chaos.set(Mode::SwallowResponse);
    let url = format!("{}/api/v2/event?model=binary", chaos.url());
    tokio::select! {
        _ = Client::new().post(url).body("x").send() => panic!("answered"),
        () = dispatcher.wait_until(|_, posts| posts.iter().any(|p| p.status == Some(422))) => {}
    }
    chaos.set(Mode::Pass);
    assert_eq!(get().await.unwrap(), "Azul Dispatcher");
    assert!(chaos.connections() >= 6);
}
