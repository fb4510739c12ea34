//! The catalogue: archives, images and installable packages.

use super::row::{Handler, Special, boolean, date, dictionary, float, integer, text, texts};

const APK_INTENT_FILTERS: &str =
    "Action that an activity, receiver or service of an Android app takes intents for.";

pub(super) static BUNDLE_INFO: Handler = Handler::on(
    "BundleInfo",
    "bundle_info",
    &[
        text(
            &["beginning"],
            "beginning",
            "First bytes of a compressed file's content, decompressed.",
        ),
        text(&["error"], "error", "Why VirusTotal could not unpack the bundle."),
        dictionary(
            &["extensions"],
            "extensions",
            "File name extension in the bundle; label: number of files that have it.",
        ),
        dictionary(
            &["file_types"],
            "file_type_counts",
            "Type of file in the bundle; label: number of files that have it.",
        ),
        date(&["highest_datetime"], "highest_datetime", "Latest modification time in the bundle."),
        date(&["lowest_datetime"], "lowest_datetime", "Earliest modification time in the bundle."),
        integer(
            &["num_children"],
            "num_children",
            "Number of files and directories in the bundle.",
        ),
        text(&["password"], "password", "Password that opened the bundle."),
        text(&["type"], "type", "Type of the bundle, such as ZIP."),
        integer(
            &["uncompressed_size"],
            "uncompressed_size",
            "Size of the bundle's content when unpacked, in bytes.",
        ),
    ],
);

pub(super) static PASSWORD_INFO: Handler = Handler::on(
    "PasswordInfo",
    "password_info",
    &[text(
        &["value"],
        "hashcat_password",
        "Hash of the password of a protected file, in the form that hashcat takes.",
    )],
);

pub(super) static ISOIMAGE_INFO: Handler = Handler::on(
    "IsoimageInfo",
    "isoimage_info",
    &[
        text(
            &["abstract_file_id"],
            "abstract_file_id",
            "Name of the file with the abstract of an ISO image.",
        ),
        text(&["application_id"], "application_id", "Application that made an ISO image."),
        text(
            &["bibliographic_file_id"],
            "bibliographic_file_id",
            "Name of the file with the bibliography of an ISO image.",
        ),
        text(
            &["copyright_file_id"],
            "copyright_file_id",
            "Name of the file with the copyright note of an ISO image.",
        ),
        date(&["created"], "created", "When an ISO image's volume was created."),
        text(&["data_preparer_id"], "data_preparer_id", "Who prepared the data of an ISO image."),
        date(&["effective"], "effective", "From when an ISO image's content is in effect."),
        date(&["expires"], "expires", "When an ISO image's content becomes obsolete."),
        integer(
            &["file_structure_version"],
            "file_structure_version",
            "Version of an ISO image's file structure.",
        ),
        date(&["max_date"], "max_date", "Latest time of a file in the image or archive."),
        date(&["min_date"], "min_date", "Earliest time of a file in the image or archive."),
        date(&["modified"], "modified", "When an ISO image's volume was last modified."),
        integer(&["num_files"], "num_files", "Number of files in an ISO image."),
        text(&["publisher_id"], "publisher_id", "Publisher of an ISO image."),
        text(&["system_id"], "system_id", "System that can use an ISO image's boot area."),
        integer(
            &["total_size"],
            "total_size",
            "Total size of the files in an ISO image, in bytes.",
        ),
        text(&["type_code"], "type_code", "Type of an ISO image's volume descriptor."),
        text(&["volume_id"], "volume_id", "Name of an ISO image's volume."),
        text(
            &["volume_set_id"],
            "volume_set_id",
            "Name of the set of volumes that an ISO image belongs to.",
        ),
    ],
);

pub(super) static DEB_INFO: Handler = Handler::on(
    "DebInfo",
    "deb_info",
    &[
        text(
            &["changelog", "Author"],
            "changelog_author",
            "Author of a Debian package's latest change.",
        ),
        text(&["changelog", "Date"], "changelog_date", "Time of a Debian package's latest change.")
            .mail_date(),
        text(
            &["changelog", "Debian revision"],
            "changelog_debian_revision",
            "Debian revision in the version of a package's latest change.",
        ),
        text(
            &["changelog", "Debian version"],
            "changelog_debian_version",
            "Upstream version in the version of a Debian package's latest change.",
        ),
        text(
            &["changelog", "Distributions"],
            "changelog_distributions",
            "Distribution that a Debian package's latest change is for.",
        ),
        text(
            &["changelog", "Full version"],
            "changelog_full_version",
            "Full version of a Debian package's latest change.",
        ),
        text(
            &["changelog", "Package"],
            "changelog_package",
            "Package that a Debian package's change log is about.",
        ),
        text(
            &["changelog", "Urgency"],
            "changelog_urgency",
            "Urgency of a Debian package's latest change.",
        ),
        text(
            &["changelog", "Version history"],
            "changelog_version_history",
            "Text of a Debian package's change log.",
        ),
        text(
            &["control_metadata", "Maintainer"],
            "control_metadata_maintainer",
            "Maintainer that a Debian package's control file names.",
        ),
        text(
            &["control_metadata", "Description"],
            "control_metadata_description",
            "Description in a Debian package's control file.",
        ),
        text(
            &["control_metadata", "Package"],
            "control_metadata_package",
            "Name of the package in a Debian package's control file.",
        ),
        text(
            &["control_metadata", "Depends"],
            "control_metadata_depends",
            "Packages that a Debian package's control file asks for.",
        ),
        text(
            &["control_metadata", "Version"],
            "control_metadata_version",
            "Version in a Debian package's control file.",
        ),
        text(
            &["control_metadata", "Architecture"],
            "control_metadata_architecture",
            "Processor architecture in a Debian package's control file.",
        ),
        text(
            &["control_scripts", "postinst"],
            "control_scripts_postinst",
            "Script that a Debian package runs after it is installed.",
        ),
        text(
            &["control_scripts", "postrm"],
            "control_scripts_postrm",
            "Script that a Debian package runs after it is removed.",
        ),
        text(
            &["control_scripts", "preinst"],
            "control_scripts_preinst",
            "Script that a Debian package runs before it is installed.",
        ),
        text(
            &["control_scripts", "prerm"],
            "control_scripts_prerm",
            "Script that a Debian package runs before it is removed.",
        ),
        integer(
            &["structural_metadata", "contained_files"],
            "structural_metadata_contained_files",
            "Number of files in a Debian package.",
        ),
        integer(
            &["structural_metadata", "contained_items"],
            "structural_metadata_contained_items",
            "Number of files, directories and links in a Debian package.",
        ),
        date(
            &["structural_metadata", "max_date"],
            "structural_metadata_max_date",
            "Latest modification time in a Debian package.",
        ),
        date(
            &["structural_metadata", "min_date"],
            "structural_metadata_min_date",
            "Earliest modification time in a Debian package.",
        ),
    ],
);

pub(super) static ANDROGUARD: Handler = Handler::on(
    "Androguard",
    "androguard",
    &[
        texts(&["Activities"], "apk_activities", "Activity that an Android app declares."),
        text(
            &["AndroguardVersion"],
            "androguard_version",
            "Version of Androguard that analysed the file.",
        ),
        integer(
            &["AndroidApplication"],
            "android_application",
            "Kind of Android file that Androguard found, as its number.",
        ),
        boolean(
            &["AndroidApplicationError"],
            "android_application_error",
            "Whether Androguard failed to analyse the Android app.",
        ),
        text(
            &["AndroidApplicationInfo"],
            "android_application_info",
            "Kind of Android file that Androguard found, in words.",
        ),
        text(
            &["AndroidVersionCode"],
            "android_version_code",
            "Version number of an Android app that orders its releases.",
        ),
        text(
            &["AndroidVersionName"],
            "android_version_name",
            "Version of an Android app as users see it.",
        ),
        texts(&["Libraries"], "apk_libraries", "Shared library that an Android app uses."),
        text(&["main_activity"], "apk_main_activity", "Activity that an Android app starts with."),
        text(&["MinSdkVersion"], "apk_sdk_min", "Lowest Android API level that an app runs on."),
        text(&["Package"], "apk_package_name", "Package name of an Android app."),
        texts(&["Providers"], "apk_providers", "Content provider that an Android app declares."),
        texts(&["Receivers"], "apk_receivers", "Broadcast receiver that an Android app declares."),
        dictionary(
            &["RiskIndicator", "APK"],
            "apk_risk_indicator_apk",
            "Kind of risky content in an Android app; label: how often it was found.",
        ),
        dictionary(
            &["RiskIndicator", "PERM"],
            "apk_risk_indicator_perm",
            "Kind of permissions that an Android app asks for; label: how many there are.",
        ),
        texts(&["Services"], "apk_services", "Service that an Android app declares."),
        texts(
            &["StringsInformation"],
            "apk_strings_information",
            "Notable string in an Android app.",
        ),
        text(&["TargetSdkVersion"], "apk_sdk_target", "Android API level that an app is made for."),
        float(
            &["VTAndroidInfo"],
            "apk_vt_android_info",
            "Version of VirusTotal's own Android analysis.",
        ),
        text(
            &["certificate", "thumbprint"],
            "apk_cert_fingerprint",
            "SHA-1 fingerprint of the certificate that signed an Android app.",
        ),
        dictionary(
            &["certificate"],
            "apk_cert_issuer",
            "Issuer of the certificate that signed an Android app, as sorted key=value pairs.",
        )
        .special(Special::CertIssuer),
        dictionary(
            &["certificate"],
            "apk_cert_subject",
            "Subject of the certificate that signed an Android app, as sorted key=value pairs.",
        )
        .special(Special::CertSubject),
        date(
            &["certificate", "validfrom"],
            "apk_cert_valid_from",
            "From when the certificate that signed an Android app is valid.",
        ),
        date(
            &["certificate", "validto"],
            "apk_cert_valid_to",
            "Until when the certificate that signed an Android app is valid.",
        ),
        texts(
            &["intent_filters", "Activities", "action"],
            "apk_intent_filters",
            APK_INTENT_FILTERS,
        ),
        texts(&["intent_filters", "Receivers", "action"], "apk_intent_filters", APK_INTENT_FILTERS),
        texts(&["intent_filters", "Services", "action"], "apk_intent_filters", APK_INTENT_FILTERS),
        dictionary(
            &["permission_details"],
            "apk_permissions",
            "Permission that an Android app asks for; label: its protection level.",
        )
        .special(Special::Permissions),
    ],
);

pub(super) static JAR_INFO: Handler = Handler::off(
    "JarInfo",
    "jar_info",
    &[
        dictionary(
            &["files_by_type"],
            "files_by_type",
            "Type of file in a Java archive; label: number of files.",
        ),
        text(
            &["max_date"],
            "max_date",
            "Latest time of a file in a Java archive, as VirusTotal writes it.",
        ),
        integer(&["max_depth"], "max_depth", "Depth of the directories in a Java archive."),
        text(
            &["min_date"],
            "min_date",
            "Earliest time of a file in a Java archive, as VirusTotal writes it.",
        ),
        texts(&["packages"], "packages", "Java package that a Java archive uses."),
        texts(&["strings"], "strings", "Notable string in the file."),
        integer(&["total_dirs"], "total_dirs", "Number of directories in a Java archive."),
        integer(&["total_files"], "total_files", "Number of files in a Java archive."),
    ],
);
