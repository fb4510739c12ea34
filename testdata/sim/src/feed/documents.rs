//! Attributes of documents and Flash movies.

use super::{
    json::{Json, list, number, obj},
    rng::Rng,
};

pub(super) fn pdf_info(rng: &mut Rng) -> Json {
    let mut info = obj! { "header" => format!("%PDF-1.{}", rng.range(3, 7)) };
    for count in [
        "acroform",
        "autoaction",
        "embedded_file",
        "encrypted",
        "flash",
        "javascript",
        "jbig2_compression",
        "js",
        "num_launch_actions",
        "openaction",
        "suspicious_colors",
        "xfa",
    ] {
        let value = if rng.chance(40) { rng.range(1, 3) } else { 0 };
        info.put(count, value);
    }
    for count in [
        "num_endobj",
        "num_endstream",
        "num_obj",
        "num_object_streams",
        "num_pages",
        "num_stream",
        "startxref",
        "trailer",
        "xref",
    ] {
        info.put(count, rng.range(1, 400));
    }
    info
}

pub(super) fn office_info(rng: &mut Rng) -> Json {
    let details = |rng: &mut Rng| {
        obj! {
            "characters_with_spaces" => rng.range(1, 9000), "code_page" => "Latin I",
            "company" => "Example Ltd", "hyperlinks_changed" => rng.chance(20),
            "line_count" => rng.range(1, 900), "links_dirty" => rng.chance(20),
            "paragraph_count" => rng.range(1, 90), "scale" => rng.chance(20),
            "shared_document" => rng.chance(20), "version" => rng.range(1, 999_999),
        }
    };
    obj! {
        "document_summary_info" => details(rng),
        // Spelled like this in the table of features, and in some reports.
        "documment_summary_info" => details(rng),
        "entries" => list(rng.len(2, 15), |i| obj! {
            "name" => if i == 0 { "Root Entry".to_owned() } else { rng.camel() },
            "clsid" => rng.guid(), "clsid_literal" => "MS Word", "sid" => i,
            "size" => rng.range(64, 90_000), "type_literal" => rng.pick(&["root", "stream", "storage"]),
        }),
        "ole" => obj! {
            "num_macros" => rng.range(1, 4),
            "macros" => list(rng.len(1, 4), |i| obj! {
                "length" => rng.range(10, 9000), "patterns" => ["auto-open", "run-file"],
                "properties" => ["obfuscated"], "stream_path" => format!("Macros/VBA/Module{i}"),
                "vba_code" => format!("Sub {}()\r\n  x = \"{}\"\r\nEnd Sub\r\n", rng.camel(), rng.hex(200)),
                "vba_filename" => format!("Module{i}.bas"),
            }),
        },
        "summary_info" => obj! {
            "application_name" => "Example Word 10.0", "author" => rng.camel(),
            "character_count" => rng.range(1, 9000), "code_page" => "Latin I",
            "creation_datetime" => rng.date_time(), "edit_time" => rng.range(1, 9000),
            "last_author" => rng.camel(), "last_printed" => rng.date_time(),
            "last_saved" => rng.date_time(), "page_count" => rng.range(1, 90),
            "revision_number" => rng.range(1, 90).to_string(), "security" => 0,
            "template" => "Normal.dot", "title" => "R\u{e9}sum\u{e9} \u{2014} \u{65e5}\u{672c}",
            "word_count" => rng.range(1, 9000),
        },
    }
}

pub(super) fn vba_info(rng: &mut Rng) -> Json {
    obj! {
        "strings" => list(rng.len(1, 12), |_| rng.camel()),
        "deobfuscated_strings" => list(rng.len(1, 6), |_| format!("http://{}/a", rng.host())),
    }
}

pub(super) fn rtf_info(rng: &mut Rng) -> Json {
    obj! {
        "document_properties" => obj! {
            "custom_xml_data_properties" => rng.range(1, 9), "default_ansi_codepage" => "Western European",
            "default_character_set" => "ANSI", "default_languages" => ["English (United States)"],
            "dos_stubs" => rng.range(1, 3), "embedded_drawings" => rng.range(1, 9),
            "embedded_pictures" => rng.range(1, 9), "longest_hex_string" => rng.range(5, 90_000),
            "non_ascii_characters" => rng.range(1, 900), "read_only_protection" => rng.chance(20),
            "rtf_header" => "rtf1", "user_protection" => rng.chance(20),
            "objects" => list(rng.len(1, 3), |_| obj! {
                "class" => format!("{}.3", rng.camel()), "type" => "OLE control",
            }),
        },
        "summary_info" => obj! {
            "author" => rng.camel(), "company" => "Example Ltd", "creation_time" => rng.date_time(),
            "editing_time" => rng.range(1, 900), "number_of_characters" => rng.range(1, 9000),
            "number_of_non_whitespace_characters" => rng.range(1, 9000),
            "number_of_pages" => rng.range(1, 90), "number_of_words" => rng.range(1, 900),
            "operator" => rng.camel(), "print_time" => rng.date_time(),
            "revision_time" => rng.date_time(), "title" => rng.sentence(3), "version" => rng.range(1, 9),
            "version_number" => rng.range(1, 99_999),
        },
    }
}

pub(super) fn swf_info(rng: &mut Rng) -> Json {
    obj! {
        "compression" => "zlib", "duration" => number(rng.decimal(0, 60)),
        "file_attributes" => ["ActionScript3", "UseNetwork"],
        "flash_packages" => list(rng.len(1, 6), |_| format!("flash.{}", rng.word())),
        "frame_count" => rng.range(1, 900), "frame_size" => "480.0x480.0", "metadata" => "<rdf/>",
        "num_swf_tags" => rng.range(1, 900), "num_unrecognized_tags" => rng.range(0, 3),
        "suspicious_strings" => list(rng.len(1, 3), |_| rng.camel()),
        "suspicious_urls" => list(rng.len(1, 3), |_| format!("http://{}/x", rng.host())),
        "version" => rng.range(6, 20),
    }
}
