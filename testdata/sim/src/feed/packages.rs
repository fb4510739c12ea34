//! Attributes of archives, packages and mobile applications.

use super::{
    json::{Json, list, number, obj},
    rng::Rng,
};

pub(super) fn bundle_info(rng: &mut Rng, kind: &str) -> Json {
    let mut extensions = Json::Map(Vec::new());
    let mut types = Json::Map(Vec::new());
    let pairs = [("xml", "XML"), ("png", "PNG"), ("dll", "Portable Executable"), ("txt", "Text")];
    for (extension, name) in pairs {
        extensions.put(extension, rng.range(1, 300));
        types.put(name, rng.range(1, 300));
    }
    let mut info = obj! {
        "highest_datetime" => rng.date_time(),
        "lowest_datetime" => "1980-01-01 00:00:00",
        "num_children" => rng.range(1, 900),
        "extensions" => extensions,
        "file_types" => types,
        "type" => kind,
        "uncompressed_size" => rng.range(1000, 90_000_000),
        "beginning" => rng.hex(16),
    };
    if rng.chance(20) {
        info.put("error", "The archive ends early");
        info.put("password", rng.word());
    }
    info
}

pub(super) fn password_info(rng: &mut Rng) -> Json {
    obj! { "type" => "hashcat", "value" => format!("$zip2$*0*3*0*{}*$/zip2$", rng.hex(32)) }
}

pub(super) fn androguard(rng: &mut Rng, bulk: i64) -> Json {
    let package = format!("com.example.{}", rng.word());
    let classes = |rng: &mut Rng, low, high| {
        let count = rng.len(low, high);
        list(count, |_| format!("{package}.{}", rng.camel()))
    };
    let dn = |rng: &mut Rng| {
        let name = rng.camel();
        obj! {
            "DN" => format!("C:AU, CN:{name}, O:Example"), "C" => "AU", "CN" => name.as_str(),
            "O" => "Example",
        }
    };
    let filter = |rng: &mut Rng| {
        let mut filters = Json::Map(Vec::new());
        for _ in 0..rng.len(1, 3) {
            let actions = list(rng.len(1, 3), |_| {
                format!("android.intent.action.{}", rng.word().to_uppercase())
            });
            let filter = obj! {
                "action" => actions, "category" => ["android.intent.category.DEFAULT"],
            };
            filters.put(format!("{package}.{}", rng.camel()), filter);
        }
        // A flat form of the same, which some reports hold.
        filters.put("action", list(1, |_| "android.intent.action.MAIN"));
        filters
    };
    let mut permissions = Json::Map(Vec::new());
    for _ in 0..rng.len(2, 25) {
        let name = format!("android.permission.{}_{}", rng.word(), rng.word()).to_uppercase();
        let detail = obj! {
            "permission_type" => rng.pick(&["normal", "dangerous", "signature"]),
            "short_description" => rng.sentence(4), "full_description" => rng.sentence(9),
        };
        permissions.put(name, detail);
    }
    obj! {
        "Activities" => classes(rng, 1, 20), "Services" => classes(rng, 1, 6),
        "Receivers" => classes(rng, 1, 6), "Providers" => classes(rng, 1, 3),
        "Libraries" => classes(rng, 1, 3), "AndroguardVersion" => "3.0-dev",
        "AndroidApplication" => 1, "AndroidApplicationError" => rng.chance(10),
        "AndroidApplicationInfo" => "APK",
        "AndroidVersionCode" => rng.range(1, 999).to_string(), "AndroidVersionName" => rng.version(),
        "MinSdkVersion" => rng.range(14, 24).to_string(),
        "TargetSdkVersion" => rng.range(25, 35).to_string(),
        "Package" => package.as_str(), "main_activity" => format!("{package}.Main"),
        "RiskIndicator" => obj! {
            "APK" => obj! { "DEX" => 1, "EXECUTABLE" => rng.range(1, 9) },
            "PERM" => obj! { "INTERNET" => 1, "SMS" => rng.range(1, 9) },
        },
        "StringsInformation" => list(rng.len(1, 20) + bulk, |_| format!("http://{}/{}", rng.host(), rng.hex(24))),
        "VTAndroidInfo" => number(rng.decimal(0, 100)),
        "certificate" => obj! {
            "Issuer" => dn(rng), "Subject" => dn(rng), "serialnumber" => rng.hex(8),
            "thumbprint" => rng.hex(40), "validfrom" => rng.date_time(),
            "validto" => "2099-01-31 10:11:12",
        },
        "intent_filters" => obj! {
            "Activities" => filter(rng), "Receivers" => filter(rng), "Services" => filter(rng),
        },
        "permission_details" => permissions,
    }
}

pub(super) fn jar_info(rng: &mut Rng, bulk: i64) -> Json {
    obj! {
        "packages" => list(rng.len(1, 10), |_| format!("java.{}", rng.word())),
        "strings" => list(rng.len(1, 20) + bulk, |_| format!("http://{}/{}", rng.host(), rng.hex(24))),
        "filenames" => list(rng.len(1, 10), |_| format!("{}.json", rng.word())),
        "files_by_type" => obj! { "class" => rng.range(1, 300), "binary" => rng.range(1, 20) },
        "manifest" => format!("Manifest-Version: 1.0\r\nMain-Class: {}\r\n", rng.camel()),
        "max_date" => rng.date_time(), "min_date" => "1980-01-01 00:00:00",
        "max_depth" => rng.range(1, 9), "total_dirs" => rng.range(1, 90),
        "total_files" => rng.range(1, 900),
    }
}

pub(super) fn class_info(rng: &mut Rng) -> Json {
    obj! {
        "name" => format!("com/example/{}", rng.camel()), "platform" => "1.8",
        "extends" => "java.lang.Object",
        "implements" => list(rng.len(1, 3), |_| format!("java.util.{}", rng.camel())),
        "provides" => list(rng.len(1, 12), |_| format!("com.example.{}", rng.camel())),
        "requires" => list(rng.len(1, 12), |_| format!("java.{}", rng.word())),
        "constants" => list(rng.len(1, 20), |_| rng.sentence(2)),
        "methods" => list(rng.len(1, 20), |_| rng.word()),
    }
}

pub(super) fn isoimage_info(rng: &mut Rng) -> Json {
    let mut info = obj! {
        "file_structure_version" => 1, "type_code" => "CD001", "system_id" => "SYNTHETIC",
        "total_size" => rng.range(100_000, 700_000_000), "num_files" => rng.range(1, 4000),
    };
    for id in [
        "abstract_file_id",
        "application_id",
        "bibliographic_file_id",
        "copyright_file_id",
        "data_preparer_id",
        "publisher_id",
        "volume_id",
        "volume_set_id",
    ] {
        info.put(id, rng.camel().to_uppercase());
    }
    for date in ["created", "modified", "min_date", "max_date"] {
        info.put(date, rng.date_time());
    }
    // Mostly unset, as on real images; a date that does not parse costs only itself.
    for date in ["effective", "expires"] {
        let value = if rng.chance(50) { rng.date_time() } else { "0000-00-00 00:00:00".to_owned() };
        info.put(date, value);
    }
    info
}

pub(super) fn deb_info(rng: &mut Rng) -> Json {
    let name = rng.word();
    let version = format!("{}.{}-{}", rng.range(1, 9), rng.range(0, 30), rng.range(1, 5));
    obj! {
        "structural_metadata" => obj! {
            "contained_files" => rng.range(1, 99), "contained_items" => rng.range(1, 300),
            "min_date" => rng.date_time(), "max_date" => rng.date_time(),
        },
        "control_metadata" => obj! {
            "Maintainer" => "Packager <packager@example.org>", "Description" => rng.sentence(9),
            "Package" => name, "Depends" => format!("libc6 (>= 2.{})", rng.range(14, 38)),
            "Version" => version.as_str(), "Architecture" => rng.pick(&["amd64", "arm64", "all"]),
        },
        "control_scripts" => obj! {
            "preinst" => "#!/bin/sh\nset -e\n", "postinst" => format!("#!/bin/sh\necho {name}\n"),
            "prerm" => "#!/bin/sh\nexit 0\n", "postrm" => "#!/bin/sh\nexit 0\n",
        },
        "changelog" => obj! {
            "Author" => "Packager <packager@example.org>", "Package" => name,
            "Date" => format!("Mon, 0{} May 2023 10:11:12 +0200", rng.pick(&["1", "8"])),
            "Debian revision" => "1", "Debian version" => version.as_str(),
            "Full version" => version.as_str(), "Distributions" => "unstable",
            "Urgency" => "medium", "Version history" => format!("{version}, 0.1-1"),
        },
    }
}
