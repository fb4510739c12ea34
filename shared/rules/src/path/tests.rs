use std::borrow::Cow;

use proptest::prelude::*;

use super::{CompileError, Path, Warning};
use json::Document;

use crate::needles::{Interner, NeedleSet};

const DOCUMENT: &str = r#"{
  "name": {"first": "Ada", "last": "Byron"},
  "age": 36,
  "children": ["Sam","Alix","Jo"],
  "fav.film": "Solaris", "star*": 1, "café": 2, "say \"hi\"": 3, "": {"": "void"},
  "flags": [true,false,null],
  "numbers": [1.50,1e3,0,-2],
  "friends": [
    {"first": "Dee", "last": "Marsh", "age": 44, "nets": ["ig","fb","tw"]},
    {"first": "Rod", "last": "Crane", "age": 68, "nets": ["fb","tw"]},
    {"first": "Jan", "last": "Marsh", "age": 47, "nets": ["ig","tw"]}
  ],
  "odd": [{"k": 1, "ok": true}, {"k": 2, "ok": "1"}, {"k": 3, "ok": 0}, {"k": 4, "ok": "false"}, {"k": 5, "ok": null}, {"k": 6}, 7, "x"],
  "deep": [[1,[2,[3]]],4,[]],
  "text": "{\"inner\":[1,2]}",
  "twice": {"a": 1}, "twice": {"b": 2}
}"#;

/// Returns the value that `path` finds in `json`; "-" if there is none.
fn get(json: &str, path: &str) -> String {
    let mut interner = Interner::default();
    let (path, _) = Path::compile(path, &mut interner).unwrap();
    let found = path.get(json);
    if let Ok(document) = Document::parse(json.to_owned()) {
        let needles = interner.needles();
        assert_eq!(path.find(&document, Some(&NeedleSet::new(&needles))), found);
        assert_eq!(path.find(&document, None), found);
    }
    found.map_or("-".to_owned(), Cow::into_owned)
}

fn finds(cases: &[(&str, &str)]) {
    for (path, expected) in cases {
        assert_eq!(get(DOCUMENT, path), *expected, "{path}");
    }
}

#[test]
fn keys_lead_down_and_a_backslash_takes_the_next_character_as_it_is() {
    finds(&[
        ("name.last", r#""Byron""#),
        ("age", "36"),
        ("children", r#"["Sam","Alix","Jo"]"#),
        (r"fav\.film", r#""Solaris""#),
        ("fav.film", "-"),
        (r"star\*", "1"),
        ("café", "2"),
        (r#"say "hi""#, "3"),
        (r"\age", "36"),
        ("Name.last", "-"),
        ("name.last.x", "-"),
        ("age.x", "-"),
        (" age", "-"),
        (".", r#""void""#),
        ("name.", "-"),
        ("nothing", "-"),
    ]);
}

#[test]
fn of_equal_keys_the_first_wins_that_leads_to_something() {
    finds(&[("twice", r#"{"a": 1}"#), ("twice.b", "2"), ("twice|b", "-")]);
}

#[test]
fn wildcards_try_one_key_after_the_other() {
    finds(&[
        ("child*.2", r#""Jo""#),
        ("c?ildren.0", r#""Sam""#),
        ("ch?ldre?", r#"["Sam","Alix","Jo"]"#),
        ("*.last", r#""Byron""#),
        ("*.nothing", "-"),
        ("caf?", "2"),
        (r"star\*?", "-"),
        (r"sta?\*", "1"),
        ("?", "-"),
        ("children.*", "-"),
    ]);
}

#[test]
fn arrays_are_indexed_counted_and_worked_element_by_element() {
    finds(&[
        ("children.1", r#""Alix""#),
        ("children.01", r#""Alix""#),
        ("children.3", "-"),
        ("children.-1", "-"),
        ("children.1x", "-"),
        ("children.99999999999999999999", "-"),
        ("children.#", "3"),
        ("friends.#.age", "[44,68,47]"),
        ("friends.#.nets.#", "[3,2,2]"),
        ("friends.#.nets.0", r#"["ig","fb","ig"]"#),
        ("friends.#.nothing", "[]"),
        ("friends.#x", "-"),
        ("age.#", "-"),
        ("#", "-"),
    ]);
}

#[test]
fn queries_find_the_first_or_all_that_fit() {
    finds(&[
        (r#"friends.#(last=="Marsh").first"#, r#""Dee""#),
        (r#"friends.#(last="Marsh")#.first"#, r#"["Dee","Jan"]"#),
        ("friends.#(last==Marsh)#.first", r#"["Dee","Jan"]"#),
        (r#"friends.#[last=="Marsh"]#.first"#, r#"["Dee","Jan"]"#),
        (r#"friends.#(last!="Marsh").first"#, r#""Rod""#),
        ("friends.#(age>45)#.first", r#"["Rod","Jan"]"#),
        ("friends.#(age>=47)#.first", r#"["Rod","Jan"]"#),
        ("friends.#( age < 47 )#.first", r#"["Dee"]"#),
        ("friends.#(age<=44)#.first", r#"["Dee"]"#),
        (r#"friends.#(first%"D*").last"#, r#""Marsh""#),
        (r#"friends.#(first!%"D*").last"#, r#""Crane""#),
        (r#"friends.#(first%"?o?")#.first"#, r#"["Rod"]"#),
        (r#"children.#(!%"*a*")"#, r#""Alix""#),
        (r#"children.#(%"*a*")#"#, r#"["Sam"]"#),
        (r#"children.#(>"Jo")#"#, r#"["Sam"]"#),
        (r#"children.#(%"\*")#"#, "[]"),
        ("numbers.#(>1)#", "[1.50,1e3]"),
        ("numbers.#(==1.5)", "1.50"),
        ("flags.#(==true)#", "[true]"),
        ("flags.#(!=true)#", "[false]"),
        ("flags.#(>false)#", "[true]"),
        ("flags.#(<true)#", "[false]"),
        ("flags.#(<=true)#", "[false]"),
        ("flags.#(>=true)#", "[true]"),
        ("flags.#(==null)#", "[]"),
        ("odd.#(ok)#.k", "[1,2,3,4,5]"),
        ("odd.#(nothing)#", "[]"),
        ("odd.#(nothing)", "-"),
        (r#"friends.#(nets.#(=="fb"))#.first"#, r#"["Dee","Rod"]"#),
        ("friends.#(nets.#>2).first", r#""Dee""#),
        (r#"friends.#(first="Dee")ignored.age"#, "44"),
    ]);
}

#[test]
fn a_query_without_a_condition_or_without_an_end_takes_what_is_no_object() {
    finds(&[
        ("children.#()#", r#"["Sam","Alix","Jo"]"#),
        ("children.#(", r#""Sam""#),
        (r#"children.#(=="x"#, r#""Sam""#),
        ("odd.#()#", r#"[7,"x"]"#),
        ("friends.#()", "-"),
    ]);
}

#[test]
fn a_tilde_asks_for_a_class_of_values() {
    finds(&[
        ("odd.#(ok==~true)#.k", "[1,2]"),
        ("odd.#(ok==~false)#.k", "[3,4,5,6]"),
        ("odd.#(ok==~null)#.k", "[5,6]"),
        ("odd.#(ok==~*)#.k", "[1,2,3,4,5]"),
        ("odd.#(ok!=~*)#.k", "[6]"),
        ("odd.#(ok==~other)#.k", "[]"),
        ("flags.#(==~true)#", "[true]"),
        ("~true", "-"),
    ]);
}

#[test]
fn a_pipe_works_on_the_result_where_a_dot_works_on_each_element() {
    finds(&[
        ("friends|0|first", r#""Dee""#),
        ("friends.0|first", r#""Dee""#),
        ("friends|#", "3"),
        (r#"friends.#(last="Marsh")#|first"#, "-"),
        (r#"friends.#(last="Marsh")#.0"#, "[]"),
        (r#"friends.#(last="Marsh")#|0.first"#, r#""Dee""#),
        (r#"friends.#(last="Marsh")#.#"#, "[]"),
        (r#"friends.#(last="Marsh")#|#"#, "2"),
        (r#"friends.#(last="Marsh")#.first|1"#, r#""Jan""#),
        (r#"friends.#(last="None")#|#"#, "0"),
        (r#"friends.#(last="None")#.first|#"#, "[]"),
        ("friends.#.first|1", r#""Rod""#),
        (r#"friends.#.nets.#(=="a|b")#|#"#, "3"),
        ("nothing|@this", "-"),
    ]);
}

#[test]
fn built_in_modifiers_make_new_json() {
    finds(&[
        ("children|@reverse", r#"["Jo","Alix","Sam"]"#),
        ("children.@reverse.0", r#""Jo""#),
        ("name.@reverse", r#"{"last":"Byron","first":"Ada"}"#),
        ("age|@reverse", "36"),
        ("name|@keys", r#"["first","last"]"#),
        ("name|@values", r#"["Ada","Byron"]"#),
        ("age|@keys", "[null]"),
        ("age|@values", "[36]"),
        ("flags|@values", "[true,false,null]"),
        ("name|@ugly", r#"{"first":"Ada","last":"Byron"}"#),
        ("name|@pretty", "{\n  \"first\": \"Ada\",\n  \"last\": \"Byron\"\n}\n"),
        ("deep|@pretty", "[[1, [2, [3]]], 4, []]\n"),
        (
            r#"name|@reverse|@pretty:{"sortKeys":true,"indent":"\t"}"#,
            "{\n\t\"first\": \"Ada\",\n\t\"last\": \"Byron\"\n}\n",
        ),
        (r#"flags|@pretty:{"width":5}"#, "[\n  true,\n  false,\n  null\n]\n"),
        ("deep|@flatten", "[1,[2,[3]],4]"),
        (r#"deep|@flatten:{"deep":true}"#, "[1,2,3,4]"),
        ("[name,{age}]|@join", r#"{"first":"Ada","last":"Byron","age":36}"#),
        (r#"[name,{"first":age}]|@join"#, r#"{"first":36,"last":"Byron"}"#),
        (
            r#"[name,{"first":age}]|@join:{"preserve":true}"#,
            r#"{"first":"Ada","last":"Byron","first":36}"#,
        ),
        ("age|@tostr", r#""36""#),
        ("text|@fromstr|inner.1", "2"),
        ("text.@fromstr.inner.#", "2"),
        ("name.first|@fromstr", "-"),
        ("age|@tostr|@fromstr", "36"),
        ("name|@valid", r#"{"first": "Ada", "last": "Byron"}"#),
        ("name|@this|first", r#""Ada""#),
        (
            r#"{"id":children,"n":numbers}|@group"#,
            r#"[{"id":"Sam","n":1.50},{"id":"Alix","n":1e3},{"id":"Jo","n":0},{"n":-2}]"#,
        ),
        ("children|@group", "-"),
        ("@dig:nets.0", r#"["ig","fb","ig"]"#),
        (r#"@dig:#(first=="Rod").age|0"#, "68"),
        ("friends.#.nets.@reverse", r#"[["tw","fb","ig"],["tw","fb"],["tw","ig"]]"#),
    ]);
    assert_eq!(get("{", "@valid"), "-");
}

#[test]
fn multipaths_make_objects_and_arrays() {
    finds(&[
        (
            r#"{name.first,age,"marsh":friends.#(last="Marsh")#.first}"#,
            r#"{"first":"Ada","age":36,"marsh":["Dee","Jan"]}"#,
        ),
        ("[name.first,age,nothing]", r#"["Ada",36]"#),
        ("name.{first,\"l\":last}", r#"{"first":"Ada","l":"Byron"}"#),
        ("name.[first,last].1", r#""Byron""#),
        ("{friends.#,l:age}", r#"{"_":3,"l":36}"#),
        ("friends.#.{first,age}|1", r#"{"first":"Rod","age":68}"#),
        (r#"{"a":name.{"b":first}}"#, r#"{"a":{"b":"Ada"}}"#),
        (r#"{"a":@this|age,"b":name.@keys}"#, r#"{"a":36,"b":["first","last"]}"#),
        (r#"{"x:y":age}"#, r#"{"x:y":36}"#),
        ("{nothing}", "{}"),
        ("[]", r#"[{"": "void"}]"#),
        ("{age}x", "-"),
        ("{age", "-"),
        ("{", "-"),
    ]);
}

#[test]
fn literals_are_values_of_their_own() {
    finds(&[
        (r#"!"lit""#, r#""lit""#),
        ("!5", "5"),
        ("!-1.5", "-1.5"),
        ("!true", "true"),
        ("!null", "null"),
        (r#"!{"a":[1,2]}.a.1"#, "2"),
        ("![1,2]|#", "2"),
        (r#"{name.last,"kind":!"person"}"#, r#"{"last":"Byron","kind":"person"}"#),
        ("age|!7", "7"),
        ("!x", "-"),
        ("!", "-"),
    ]);
}

#[test]
fn two_dots_take_the_text_as_lines() {
    let lines = "{\"a\":1}\n{\"a\":2,\"b\":3}\n[4]\n";
    for (path, expected) in
        [("..#", "3"), ("..1.a", "2"), ("..#.a", "[1,2]"), ("..#(a>1).b", "3"), ("..9", "-")]
    {
        assert_eq!(get(lines, path), expected, "{path}");
    }
}

#[test]
fn the_ten_tests_look_at_raw_text() {
    let hit = |path: &str| get(DOCUMENT, path) != "-";
    for path in [
        r#"name.first|@eq:"Ada""#,
        "name.first|@ne:Ada",
        "age|@eq:36",
        "age|@gt:35|@lt:37",
        "age|@gt:-1",
        "age|@in:35,36",
        "age|@in:[35,36]",
        r#"name.first|@in:"Ada""#,
        r#"name.first|@in:["\"Ada\""]"#,
        "name|@contains:Byr",
        "name|@contains",
        "name|@icontains:byRON",
        "café|@any:,,2",
        "name|@any:Nobody,Byron",
        r#"name|@iany:["nobody","BYRON"]"#,
        r#"name.first|@re:"^\"A""#,
        "name.@contains:Ada",
        "name|@contains:Ada|@contains:Byron",
        r#"age|@eq:36|@re:"\\d+"|@gt:30"#,
    ] {
        assert!(hit(path), "{path}");
    }
    for path in [
        "name.first|@eq:Ada",
        r#"name.first|@ne:"Ada""#,
        "age|@gt:35.5",
        "age|@gt: 35",
        "age|@lt:99999999999999999999",
        "numbers.0|@gt:1",
        r#"name.first|@in:["Ada"]"#,
        "age|@in:",
        "age|@in",
        "age|@any:,",
        "age|@iany",
        "age|@any:[]",
        "name|@contains:byron",
        "name|@re:Byron",
        r#"name.first|@re:"^""#,
        "nothing|@ne:1",
        "nothing|@contains",
        // Behind `@re`, the path continues on the matched text, and no JSON value begins with B.
        r#"name|@re:"Byron""#,
    ] {
        assert!(!hit(path), "{path}");
    }
    assert_eq!(get(r#"{"a":"ÄÖ"}"#, "a|@icontains:äö"), r#""ÄÖ""#);
    assert_eq!(
        get(r#"{"a":"x\u212a"}"#.replace("\\u212a", "\u{212a}").as_str(), "a|@iany:XK"),
        "\"x\u{212a}\""
    );
}

#[test]
fn arguments_end_where_json_ends_or_at_a_pipe() {
    let hit = |path: &str| get(r#"{"a":"x|(y|z).exe"}"#, path) != "-";
    assert!(hit("a|@contains:.exe|@contains:y"));
    assert!(hit("a|@contains:(y|z)"));
    // The argument is the whole text in brackets. The dot behind it continues the path, here to nothing.
    assert!(!hit("a|@contains:(y|z).exe"));
    assert!(!hit("a|@contains:y|z"));
    let warnings = |path: &str| Path::compile(path, &mut Interner::default()).unwrap().1;
    let ignored = |text: &str| vec![Warning::Ignored(text.to_owned())];
    assert_eq!(warnings(r#"a|@eq:"PDF",b|@gt:10"#), ignored(",b|@gt:10"));
    assert_eq!(warnings(r#"a|@in:"US","CN""#), ignored(r#","CN""#));
    assert_eq!(warnings("a|@re:x"), [Warning::NeverHits("@re:x".to_owned())]);
    assert!(warnings(r#"a|@eq:"PDF".b|@iany:x,y"#).is_empty());
}

#[test]
fn what_cannot_be_meant_is_refused_or_warned_of() {
    let refused = |path: &str| Path::compile(path, &mut Interner::default()).unwrap_err();
    let warnings = |path: &str| Path::compile(path, &mut Interner::default()).unwrap().1;
    for path in [
        "@nosuch",
        "a.@nosuch:1.b",
        "a.#.@nosuch",
        "a.#(@nosuch==1)",
        "{a,b.@nosuch}",
        "@dig:@nosuch",
    ] {
        assert_eq!(warnings(path), [Warning::UnknownModifier("nosuch".to_owned())], "{path}");
    }
    assert!(
        matches!(refused(r#"a|@re:"(""#), CompileError::BadRegex { pattern, .. } if pattern == "(")
    );
    assert!(matches!(refused(&"a".repeat(20_000)), CompileError::TooLong));
    assert!(matches!(refused(&"#.".repeat(5000)), CompileError::TooLong));
    for path in
        [r"\@nosuch", r"a.\@nosuch", r#"a.#(b=="x.@nosuch")"#, r#"a|@eq:"x.@nosuch""#, "@", "a.@"]
    {
        assert!(warnings(path).is_empty(), "{path}");
    }
}

#[test]
fn text_that_is_no_json_finds_something_or_nothing_but_ends() {
    for json in
        ["", "{", "[", "{\"a\"", "{\"a\":", "{\"a\":\"\\", "[1,", "]", "}{", "\"a{b\"", "{\"a\":}"]
    {
        for path in
            ["a", "a.b", "#", "0", "*", "#.a", "@pretty", "@ugly", "@values", "@tostr", "..#"]
        {
            get(json, path);
        }
    }
}

#[test]
fn depth_costs_no_stack() {
    let depth = 20_000;
    let deep = format!("{}1{}", r#"{"a":["#.repeat(depth), "]}".repeat(depth));
    for path in ["a.0.a", "@ugly", "@pretty", "@valid", r#"@flatten:{"deep":true}"#, "@dig:a"] {
        get(&deep, path);
    }
    get(&deep, &"a.0.".repeat(900));
    get(&"[".repeat(depth), &"#.".repeat(500));
    get(&"[".repeat(depth), r#"@pretty:{"width":1000000}"#);
}

#[test]
fn a_rule_that_doubles_its_text_again_and_again_ends() {
    let rule = vec!["[@this,@this]"; 60].join("|");
    assert_eq!(get(&format!("\"{}\"", "x".repeat(1 << 16)), &rule), "-");
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        "[a-c.*\\\\\"é]{0,4}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let member = ("[a-c#@.é]{0,2}", inner.clone())
            .prop_map(|(key, value)| format!("{}: {value}", serde_json::to_string(&key).unwrap()));
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec(member, 0..6)
                .prop_map(|members| format!("{{{}}}", members.join(", "))),
        ]
    })
}

/// Makes paths of pieces in any order, with and without closing brackets.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-c0-2*?]{1,2}",
        4 => prop::sample::select(vec![".", "|", "#", "#(", ")", ")#", "[", "]", "{", "}", ",", ":"])
            .prop_map(str::to_owned),
        2 => prop::sample::select(vec![
            "@this", "@reverse", "@keys", "@values", "@flatten:{\"deep\":true}", "@join", "@pretty",
            "@ugly", "@tostr", "@fromstr", "@group", "@valid", "@dig:a", "@eq:1", "@gt:1", "@iany:a,b",
            "@re:\"[a-c]+\"", "@contains:a", "@nosuch",
        ])
        .prop_map(str::to_owned),
        2 => prop::sample::select(vec!["==", "!=", "<", ">=", "%", "!%", "~true", "~*", "\"a\"", "\""])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\\", "!", "!5", "..", "é", " "]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_path_over_any_json_ends_without_a_panic(path in path(), json in json(), cut in any::<usize>()) {
        if Path::compile(&path, &mut Interner::default()).is_err() {
            return Ok(());
        }
        get(&json, &path);
        let mut cut = cut % (json.len() + 1);
        while !json.is_char_boundary(cut) {
            cut -= 1;
        }
        get(&json[..cut], &path);
    }

    #[test]
    fn any_text_is_a_path_over_any_text(path in ".{0,40}", json in ".{0,80}") {
        get(&json, &path);
    }

    #[test]
    fn what_keys_lead_to_is_what_a_json_reader_finds(json in json()) {
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in ["a", "b", "c", "é", "a.b", "1", "b.0.a"] {
            let pointer = format!("/{}", key.replace('.', "/"));
            let found = get(&json, key);
            // Among equal keys, a reader keeps the last one and a path the first one.
            if let Some(expected) = value.pointer(&pointer).filter(|_| found != "-") {
                let found: serde_json::Value = serde_json::from_str(&found).unwrap();
                prop_assert!(found == *expected || has_equal_keys(&json));
            } else {
                prop_assert!(found == "-" || has_equal_keys(&json));
            }
        }
    }
}

fn has_equal_keys(json: &str) -> bool {
    let read: serde_json::Value = serde_json::from_str(json).unwrap();
    read.to_string().matches(':').count() != json.matches(':').count()
}
