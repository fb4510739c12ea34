//! Attributes of Windows and Linux programs, shortcuts and scripts.

use super::{
    json::{Json, list, number, obj},
    rng::Rng,
};

const LIBRARIES: [&str; 8] = [
    "KERNEL32.dll",
    "USER32.dll",
    "ADVAPI32.dll",
    "SHELL32.dll",
    "WS2_32.dll",
    "GDI32.dll",
    "ole32.dll",
    "WININET.dll",
];
const LANGUAGES: [&str; 5] = ["ENGLISH US", "NEUTRAL", "GERMAN", "RUSSIAN", "CHINESE SIMPLIFIED"];
const RESOURCES: [&str; 5] = ["RT_ICON", "RT_VERSION", "RT_MANIFEST", "RT_DIALOG", "RT_STRING"];

/// `pe_info`, with `bulk` more imported functions.
pub(super) fn pe_info(rng: &mut Rng, dll: bool, bulk: i64) -> Json {
    let mut info = obj! {
        "timestamp" => rng.range(946_684_800, 1_760_000_000),
        "imphash" => rng.hex(32),
        "machine_type" => if rng.chance(50) { 332 } else { 34404 },
        "entry_point" => rng.range(4096, 900_000),
        "rich_pe_header_hash" => rng.hex(32),
        "compiler_product_versions" => list(rng.len(0, 4), |_| {
            format!("[C++] VS{} build {}", rng.range(2008, 2022), rng.range(1000, 60000))
        }),
    };
    let names = [".text", ".rdata", ".data", ".rsrc", ".reloc", ".tls", "UPX0"];
    let mut address = 4096;
    let sections = list(rng.len(3, 6), |i| {
        let size = rng.range(1, 400) * 512;
        address += size;
        obj! {
            "name" => names.get(usize::try_from(i).unwrap_or_default()).copied().unwrap_or(".x"),
            "chi2" => number(rng.decimal(0, 900_000)),
            "virtual_address" => address,
            "entropy" => number(rng.decimal(0, 8)),
            "raw_size" => size,
            "flags" => rng.pick(&["rx", "r", "rw"]),
            "virtual_size" => size - rng.range(0, 511),
            "md5" => rng.hex(32),
        }
    });
    info.put("sections", sections);
    let imports = list(rng.len(2, 8), |i| {
        let library = usize::try_from(i).ok().and_then(|i| LIBRARIES.get(i)).copied();
        let extra = if i == 0 { bulk } else { 0 };
        obj! {
            "library_name" => library.unwrap_or("SYNTH.dll"),
            "imported_functions" => list(rng.len(3, 30) + extra, |_| rng.camel()),
        }
    });
    info.put("import_list", imports);
    if dll {
        info.put("exports", list(rng.len(1, 40), |_| rng.camel()));
    }
    if rng.chance(70) {
        let count = rng.len(1, 12);
        let details = list(count, |_| {
            obj! {
                "lang" => rng.pick(&LANGUAGES),
                "chi2" => number(rng.decimal(0, 90_000)),
                "filetype" => rng.pick(&["unknown", "ICO", "XML", "Data"]),
                "entropy" => number(rng.decimal(0, 8)),
                "sha256" => rng.hex(64),
                "type" => rng.pick(&RESOURCES),
            }
        });
        info.put("resource_details", details);
        info.put("resource_langs", obj! { "ENGLISH US" => count, rng.pick(&LANGUAGES[1..]) => 1 });
        info.put("resource_types", obj! { "RT_ICON" => count, rng.pick(&RESOURCES[1..]) => 1 });
    }
    if rng.chance(40) {
        let overlay = obj! {
            "entropy" => number(rng.decimal(0, 8)),
            "offset" => rng.range(10_000, 9_000_000),
            "chi2" => number(rng.decimal(0, 100_000_000)),
            "filetype" => rng.pick(&["unknown", "ZIP", "CAB"]),
            "size" => rng.range(1, 5_000_000),
            "md5" => rng.hex(32),
        };
        info.put("overlay", overlay);
    }
    info
}

pub(super) fn signature_info(rng: &mut Rng) -> Json {
    let name = rng.camel();
    let mut info = obj! {
        "product" => format!("{name} Suite"),
        "verified" => rng.pick(&["Signed", "Unsigned", "A certificate was explicitly revoked"]),
        "description" => rng.sentence(5),
        "file version" => rng.version(),
        "original name" => format!("{name}.exe"),
        "internal name" => name.as_str(),
        "copyright" => format!("\u{a9} {} {name} Example Ltd", rng.range(2001, 2025)),
        "comments" => rng.sentence(4),
    };
    if rng.chance(60) {
        info.put("signing date", format!("{} {} 03/04/2022", "05:39", rng.pick(&["AM", "PM"])));
        info.put("signers", "Example Code Signing; Example Root CA");
        info.put("counter signers", "Example Timestamping 2020; Example Root CA");
        let x509 = list(rng.len(1, 3), |_| {
            obj! {
                "valid usage" => "Code Signing",
                "name" => "Example Code Signing",
                "algorithm" => "sha256RSA",
                "valid from" => rng.date_time(),
                "valid to" => rng.date_time(),
                "serial number" => rng.hex(32).to_uppercase(),
                "cert issuer" => "Example Root CA",
                "thumbprint" => rng.hex(40).to_uppercase(),
            }
        });
        info.put("x509", x509);
    }
    info
}

pub(super) fn detectiteasy(rng: &mut Rng, filetype: &str) -> Json {
    obj! {
        "filetype" => filetype,
        "values" => list(rng.len(1, 4), |_| obj! {
            "info" => rng.pick(&["DLL32", "EXE32", "console", ""]),
            "version" => rng.version(),
            "type" => rng.pick(&["Compiler", "Linker", "Packer", "Library"]),
            "name" => format!("{} Builder", rng.camel()),
        }),
    }
}

pub(super) fn dot_net_assembly(rng: &mut Rng) -> Json {
    let mut externals = Json::Map(Vec::new());
    for _ in 0..rng.len(2, 9) {
        externals.put(format!("System.{}", rng.camel()), obj! { "version" => rng.version() });
    }
    let name = rng.camel();
    let mut streams = Json::Map(Vec::new());
    for stream in ["#~", "#Strings", "#US", "#GUID", "#Blob"] {
        let value = obj! {
            "chi2" => number(rng.decimal(0, 90_000)),
            "md5" => rng.hex(32),
            "entropy" => number(rng.decimal(0, 8)),
            "size" => rng.range(16, 90_000),
        };
        streams.put(stream, value);
    }
    // A flat form of the same, which some reports hold.
    streams.put("chi2", number(rng.decimal(0, 90_000)));
    streams.put("entropy", number(rng.decimal(0, 8)));
    streams.put("md5", rng.hex(32));
    streams.put("size", rng.range(16, 90_000));
    obj! {
        "entry_point_rva" => rng.range(4096, 900_000),
        "entry_point_token" => rng.range(100_663_297, 100_664_000),
        "metadata_header_rva" => rng.range(4096, 900_000),
        "assembly_name" => format!("{name}.exe"),
        "assembly_data" => obj! {
            "majorversion" => rng.range(0, 9), "minorversion" => rng.range(0, 9),
            "buildnumber" => rng.range(0, 999), "revisionnumber" => rng.range(0, 99),
            "name" => name.as_str(), "culture" => "neutral", "hashalgid" => 32772,
            "flags_text" => "afPA_None", "flags" => 0, "pubkey" => rng.hex(32),
        },
        "assembly_flags" => 3,
        "assembly_flags_txt" => "COMIMAGE_FLAGS_ILONLY, COMIMAGE_FLAGS_32BITREQUIRED",
        "clr_version" => "v4.0.30319",
        "clr_meta_version" => "1.1",
        "strongname_va" => rng.range(0, 9000),
        "resources_va" => rng.range(4096, 90_000),
        "tables_present" => rng.range(10, 40),
        "tables_rows_map" => rng.hex(48),
        "tables_rows_map_log" => rng.hex(24),
        "external_assemblies" => externals,
        "external_modules" => list(rng.len(1, 4), |_| format!("{}.dll", rng.word())),
        "exported_types" => list(rng.len(1, 5), |_| obj! {
            "name" => rng.camel(), "namespace" => format!("Example.{}", rng.camel()),
        }),
        "manifest_resource" => list(rng.len(1, 4), |_| format!("{}.resources", rng.camel())),
        "streams" => streams,
    }
}

pub(super) fn dot_net_guids(rng: &mut Rng) -> Json {
    obj! { "typelib_id" => rng.guid(), "mvid" => rng.guid() }
}

pub(super) fn elf_info(rng: &mut Rng, bulk: i64) -> Json {
    let symbols = |rng: &mut Rng, count: i64| {
        list(count, |_| {
            obj! {
                "name" => format!("{}_{}", rng.word(), rng.word()),
                "type" => rng.pick(&["FUNC", "OBJECT", "NOTYPE"]),
            }
        })
    };
    let (exports, imports) = (rng.len(1, 30), rng.len(1, 40));
    obj! {
        "header" => obj! {
            "hdr_version" => "1 (current)", "type" => "EXEC (Executable file)",
            "obj_version" => "0x1", "data" => "2's complement, little endian",
            "machine" => rng.pick(&["Advanced Micro Devices X86-64", "ARM", "MIPS R3000"]),
            "num_section_headers" => rng.range(5, 40), "os_abi" => "UNIX - System V",
            "abi_version" => rng.range(0, 2), "entrypoint" => rng.range(4_194_304, 9_999_999),
            "num_prog_headers" => rng.range(2, 12), "class" => rng.pick(&["ELF32", "ELF64"]),
        },
        "packers" => list(rng.len(0, 2), |_| rng.pick(&["upx", "synthpack"])),
        "export_list" => symbols(rng, exports),
        "import_list" => symbols(rng, imports + bulk),
        "section_list" => list(rng.len(3, 20), |_| obj! {
            "name" => format!(".{}", rng.word()), "section_type" => "PROGBITS",
            "virtual_address" => rng.range(0, 9_999_999), "physical_offset" => rng.range(0, 999_999),
            "size" => rng.range(0, 99_999), "flags" => rng.pick(&["AX", "WA", "A"]),
        }),
        "segment_list" => list(rng.len(2, 6), |_| obj! {
            "segment_type" => rng.pick(&["LOAD", "DYNAMIC", "NOTE", "INTERP"]),
            "resources" => list(rng.len(1, 5), |_| format!(".{}", rng.word())),
        }),
        "shared_libraries" => list(rng.len(1, 5), |_| format!("lib{}.so.{}", rng.word(), rng.range(1, 6))),
    }
}

pub(super) fn lnk_info(rng: &mut Rng) -> Json {
    let name = rng.camel();
    let directory = format!("C:\\Users\\Public\\{}", rng.camel());
    obj! {
        "creation_date" => rng.date_time(), "access_date" => rng.date_time(),
        "modification_date" => rng.date_time(),
        "link_flags" => ["HasTargetIDList", "HasLinkInfo", "IsUnicode"],
        "target_path" => format!("{directory}\\{name}.exe"),
        "icon_location" => "%SystemRoot%\\System32\\shell32.dll",
        "mac_address" => "00:00:5e:00:53:01", "mac_vendor_name" => "Unknown (0x00005e)",
        "machine_id" => format!("host-{}", rng.range(1, 99)),
        "working_directory" => directory.as_str(), "relative_path" => format!("..\\{name}.exe"),
        "command_line_arguments" => format!("/c start {}", rng.word()),
        "volume_serial_number" => format!("{}-{}", rng.hex(4), rng.hex(4)), "volume_label" => "DATA",
        "local_path" => format!("{directory}\\{name}.exe"), "common_path" => name.as_str(),
        "network_share_name" => format!("\\\\{}\\share", rng.word()),
        "extra_data" => obj! { "dlt_properties" => obj! {
            "birth_droid_file_id" => rng.guid(), "droid_file_id" => rng.guid(),
            "birth_droid_volume_id" => rng.guid(), "droid_volume_id" => rng.guid(),
        } },
        "link_target_id_list" => list(rng.len(1, 4), |i| obj! {
            "item_type" => 31 + i, "item_type_str" => format!("CLSID_Shell{}", rng.camel()),
            "clsid" => rng.guid(),
        }),
        "header" => obj! {
            "show_window" => 1, "show_window_str" => "SW_NORMAL", "hot_key" => "(0+0)",
            "file_size" => rng.range(1, 9_999_999),
        },
    }
}

pub(super) fn powershell_info(rng: &mut Rng) -> Json {
    obj! {
        "cmdlets" => list(rng.len(1, 12), |_| format!("get-{}", rng.word())),
        "cmdlets_alias" => list(rng.len(1, 4), |_| rng.pick(&["iex", "type", "gci"])),
        "dotnet_calls" => list(rng.len(1, 5), |_| format!("IO.{}", rng.camel())),
        "functions" => list(rng.len(1, 5), |_| format!("Invoke-{}", rng.camel())),
        "ps_variables" => list(rng.len(1, 12), |_| format!("${}", rng.word())),
    }
}
