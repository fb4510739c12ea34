use super::Path;

/// What `path` finds in `json`; "-" where nothing.
fn get(json: &str, path: &str) -> String {
    let (path, _) = Path::compile(path, true).unwrap();
    path.get(json).map_or("-".to_owned(), |found| found.into_owned())
}
#[test]
fn ask() {
    let Ok(file) = std::env::var("ASK") else { return };
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        let got = get(v["J"].as_str().unwrap(), v["P"].as_str().unwrap());
        println!("ANS {}", serde_json::Value::from(got));
    }
}
