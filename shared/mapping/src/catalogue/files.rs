//! The catalogue: features of files of any kind and of shortcuts.

use super::row::{FeatureKind, Handler, Special, integer, text, texts};

pub(super) static COMMON: Handler = Handler::on(
    "Common",
    "",
    &[
        text(&["tlsh"], "tlsh", "TLSH fuzzy hash of the file, for finding similar files.")
            .special(Special::Tlsh),
        text(
            &["magic"],
            "magic",
            "File type as the `magic` library of the `file` command describes it.",
        ),
        text(&["ssdeep"], "ssdeep", "Fuzzy hash of the file (ssdeep), for finding similar files."),
        text(&["type_tag"], "file_type_vt", "VirusTotal's short name for the type of the file."),
        texts(&["tags"], "tags", "VirusTotal's tag for a property of the file."),
    ],
);

pub(super) static SIGNATURE_INFO: Handler = Handler::on(
    "SignatureInfo",
    "signature_info",
    &[
        text(&["comments"], "comments", "Comments from the version resource of the signed file."),
        text(
            &["copyright"],
            "copyright",
            "Copyright note from the version resource of the signed file.",
        ),
        text(
            &["counter signers"],
            "counter_signers",
            "Who countersigned the file's signature, with their certificate chain.",
        ),
        text(&["description"], "description", "Description of the file from its version resource."),
        text(&["file version"], "file_version", "Version of the file from its version resource."),
        text(
            &["internal name"],
            "internal_name",
            "Internal name of the file from its version resource.",
        ),
        text(
            &["original name"],
            "original_name",
            "Original name of the file from its version resource.",
        ),
        text(
            &["product"],
            "product",
            "Product that the file belongs to, from its version resource.",
        ),
        text(
            &["signing date"],
            "signing_date",
            "When the file was signed, as VirusTotal writes it.",
        ),
    ],
);

pub(super) static EXIF_TOOL: Handler = Handler::on(
    "ExifTool",
    "exiftool",
    &[
        text(
            &["CodeSize"],
            "code_size",
            "Size of the code in an executable, in bytes, as ExifTool reads it.",
        )
        .emits(FeatureKind::Integer),
        text(
            &["EntryPoint"],
            "entry_point",
            "Address of the entry point of an executable, relative to its image base.",
        ),
        text(
            &["FileOS"],
            "file_os",
            "Operating system that the file is made for, as ExifTool reads it.",
        ),
        text(
            &["FileVersionNumber"],
            "version_number",
            "File version from the fixed part of the version resource.",
        ),
        text(
            &["ImageFileCharacteristics"],
            "image_file_characteristics",
            "Characteristics from the header of a Windows executable, as ExifTool names them.",
        ),
        text(&["OSVersion"], "os_version", "Least version of Windows that an executable asks for."),
        text(&["PEType"], "pe_type", "Kind of Windows executable, such as PE32 or PE32+."),
        text(&["DocumentID"], "document_id", "Identifier of the document in its XMP metadata."),
        text(&["FileType"], "file_type", "Type of the file as ExifTool names it."),
        text(
            &["FileTypeExtension"],
            "extension",
            "Usual file name extension of the type that ExifTool found.",
        ),
        text(
            &["Format"],
            "format",
            "Format of the document in its XMP metadata, mostly a media type.",
        ),
        text(
            &["HasXFA"],
            "has_XFA",
            "Whether a PDF has forms in Adobe's XFA, as ExifTool reads it.",
        ),
        text(&["MIMEType"], "mime", "Media type of the file as ExifTool finds it."),
        text(
            &["ModifyDate"],
            "modify_date",
            "When the document was last modified, as ExifTool writes it.",
        ),
        text(&["PDFVersion"], "PDF_version", "Version of the PDF format that the file uses."),
        integer(&["PageCount"], "page_count", "Number of pages of the document."),
    ],
);

pub(super) static KNOWN_DISTRIBUTORS: Handler = Handler::on(
    "KnownDistributors",
    "known_distributors",
    &[
        texts(
            &["data_sources"],
            "data_sources",
            "Data source that tells of the file's distribution, such as a software library.",
        ),
        texts(&["distributors"], "distributors", "Company that distributes the file."),
        texts(&["filenames"], "filenames", "Name under which the file is distributed."),
        texts(&["links"], "links", "Web address that the file is distributed from."),
        texts(&["products"], "products", "Product that the file is distributed with."),
    ],
);

pub(super) static LNK_INFO: Handler = Handler::off(
    "LnkInfo",
    "lnk_info",
    &[
        text(
            &["creation_date"],
            "creation_date",
            "When the target of a Windows shortcut was created, as VirusTotal writes it.",
        ),
        text(
            &["access_date"],
            "access_date",
            "When the target of a Windows shortcut was last accessed, as VirusTotal writes it.",
        ),
        text(
            &["modification_date"],
            "modification_date",
            "When the target of a Windows shortcut was last modified, as VirusTotal writes it.",
        ),
        texts(
            &["link_flags"],
            "link_flags",
            "Flag of a Windows shortcut that tells what it holds.",
        ),
        text(&["target_path"], "target_path", "Path that a Windows shortcut leads to."),
        text(&["icon_location"], "icon_location", "Where a Windows shortcut takes its icon from."),
        text(
            &["mac_address"],
            "mac_address",
            "Hardware address of the machine that a Windows shortcut was made on.",
        ),
        text(
            &["mac_vendor_name"],
            "mac_vendor_name",
            "Vendor of the network card of the machine that a Windows shortcut was made on.",
        ),
        text(
            &["machine_id"],
            "machine_id",
            "Name of the machine that the target of a Windows shortcut was last known on.",
        ),
        text(
            &["working_directory"],
            "working_directory",
            "Directory that a Windows shortcut starts its target in.",
        ),
        text(&["relative_path"], "relative_path", "Path from a Windows shortcut to its target."),
        text(
            &["command_line_arguments"],
            "command_line_arguments",
            "Arguments that a Windows shortcut starts its target with.",
        ),
        text(
            &["volume_serial_number"],
            "volume_serial_number",
            "Serial number of the volume that holds the target of a Windows shortcut.",
        ),
        text(
            &["volume_label"],
            "volume_label",
            "Name of the volume that holds the target of a Windows shortcut.",
        ),
        text(
            &["local_path"],
            "local_path",
            "Path on the local machine to the target of a Windows shortcut.",
        ),
        text(
            &["common_path"],
            "common_path",
            "Last part of the path to the target of a Windows shortcut.",
        ),
        text(
            &["network_share_name"],
            "network_share_name",
            "Network share that holds the target of a Windows shortcut.",
        ),
        text(
            &["extra_data", "dlt_properties", "birth_droid_file_id"],
            "extra_data_dlt_properties_birth_droid_file_id",
            "Identifier of the target of a Windows shortcut when it was first linked.",
        ),
        text(
            &["extra_data", "dlt_properties", "droid_file_id"],
            "extra_data_dlt_properties_droid_file_id",
            "Identifier of the target of a Windows shortcut when it was last linked.",
        ),
        text(
            &["extra_data", "dlt_properties", "birth_droid_volume_id"],
            "extra_data_dlt_properties_birth_droid_volume_id",
            "Identifier of the volume of a Windows shortcut's target when it was first linked.",
        ),
        text(
            &["extra_data", "dlt_properties", "droid_volume_id"],
            "extra_data_dlt_properties_droid_volume_id",
            "Identifier of the volume of a Windows shortcut's target when it was last linked.",
        ),
        text(
            &["clsid"],
            "link_target_id_list_clsid",
            "Class identifier in the target list of a Windows shortcut; label: the kind of item.",
        )
        .in_list(&["link_target_id_list"], "item_type_str"),
        text(
            &["item_type_str"],
            "link_target_id_list_item_type_str",
            "Kind of item in the target list of a Windows shortcut; label: the same kind.",
        )
        .in_list(&["link_target_id_list"], "item_type_str"),
        integer(
            &["header", "show_window"],
            "header_show_window",
            "How a Windows shortcut shows the window of its target, as its number.",
        ),
        text(
            &["header", "show_window_str"],
            "header_show_window_str",
            "How a Windows shortcut shows the window of its target, in words.",
        ),
        text(
            &["header", "hot_key"],
            "header_hot_key",
            "Keys that start a Windows shortcut, as its number.",
        ),
        integer(
            &["header", "file_size"],
            "header_file_size",
            "Size of the target of a Windows shortcut, in bytes.",
        ),
    ],
);
