//! The catalogue: documents, scripts and macros.

use super::row::{Handler, boolean, date, float, integer, text, texts};

pub(super) static OFFICE_INFO: Handler = Handler::off(
    "OfficeInfo",
    "office_info",
    &[
        integer(
            &["documment_summary_info", "characters_with_spaces"],
            "documment_summary_info_characters_with_spaces",
            "Number of characters of an Office document, blanks included.",
        ),
        text(
            &["documment_summary_info", "code_page"],
            "documment_summary_info_code_page",
            "Code page of the document summary of an Office document.",
        ),
        text(
            &["documment_summary_info", "company"],
            "documment_summary_info_company",
            "Company that an Office document names.",
        ),
        boolean(
            &["documment_summary_info", "hyperlinks_changed"],
            "documment_summary_info_hyperlinks_changed",
            "Whether hyperlinks of an Office document were changed from outside.",
        ),
        integer(
            &["documment_summary_info", "line_count"],
            "documment_summary_info_line_count",
            "Number of lines of an Office document.",
        ),
        boolean(
            &["documment_summary_info", "links_dirty"],
            "documment_summary_info_links_dirty",
            "Whether links of an Office document are out of date.",
        ),
        integer(
            &["documment_summary_info", "paragraph_count"],
            "documment_summary_info_paragraph_count",
            "Number of paragraphs of an Office document.",
        ),
        boolean(
            &["documment_summary_info", "scale"],
            "documment_summary_info_scale",
            "Whether the thumbnail of an Office document is scaled rather than cropped.",
        ),
        boolean(
            &["documment_summary_info", "shared_document"],
            "documment_summary_info_shared_document",
            "Whether an Office document is shared.",
        ),
        integer(
            &["documment_summary_info", "version"],
            "documment_summary_info_version",
            "Version of the application that wrote an Office document, as its number.",
        ),
        text(
            &["clsid"],
            "entries_clsid",
            "Class identifier of an entry of an OLE file; label: the entry.",
        )
        .in_list(&["entries"], "name"),
        text(
            &["clsid_literal"],
            "entries_clsid_literal",
            "What the class identifier of an entry of an OLE file stands for; label: the entry.",
        )
        .in_list(&["entries"], "name"),
        text(&["name"], "entries_name", "Name of an entry of an OLE file; label: the same name.")
            .in_list(&["entries"], "name"),
        integer(&["sid"], "entries_sid", "Number of an entry of an OLE file; label: the entry.")
            .in_list(&["entries"], "name"),
        integer(
            &["size"],
            "entries_size",
            "Size of an entry of an OLE file, in bytes; label: the entry.",
        )
        .in_list(&["entries"], "name"),
        text(
            &["type_literal"],
            "entries_type_literal",
            "Kind of an entry of an OLE file, such as stream or storage; label: the entry.",
        )
        .in_list(&["entries"], "name"),
        integer(
            &["length"],
            "ole_macros_length",
            "Length of a macro, in characters; label: the macro's file.",
        )
        .in_list(&["ole", "macros"], "vba_filename"),
        texts(
            &["patterns"],
            "ole_macros_patterns",
            "Notable text in a macro, such as a path or an address; label: the macro's file.",
        )
        .in_list(&["ole", "macros"], "vba_filename"),
        texts(
            &["properties"],
            "ole_macros_properties",
            "What a macro does, such as run-file or open-file; label: the macro's file.",
        )
        .in_list(&["ole", "macros"], "vba_filename"),
        text(
            &["stream_path"],
            "ole_macros_stream_path",
            "Path of the stream that holds a macro; label: the macro's file.",
        )
        .in_list(&["ole", "macros"], "vba_filename"),
        text(
            &["vba_code"],
            "ole_macros_vba_code",
            "Source code of a macro; label: the macro's file.",
        )
        .in_list(&["ole", "macros"], "vba_filename"),
        text(
            &["vba_filename"],
            "ole_macros_vba_filename",
            "Name of the file that a macro stands in; label: the same name.",
        )
        .in_list(&["ole", "macros"], "vba_filename"),
        // The number is beside the list, not in its items, so no value is found. The Go plugin does the same.
        integer(&["ole.num_macros"], "ole_num_macros", "Number of macros of an Office document.")
            .in_list(&["ole", "macros"], "vba_filename"),
        text(
            &["summary_info", "application_name"],
            "summary_info_application_name",
            "Application that wrote an Office document.",
        ),
        text(&["summary_info", "author"], "summary_info_author", "Author of a document."),
        integer(
            &["summary_info", "character_count"],
            "summary_info_character_count",
            "Number of characters of an Office document.",
        ),
        text(
            &["summary_info", "code_page"],
            "summary_info_code_page",
            "Code page of the summary of an Office document.",
        ),
        date(
            &["summary_info", "creation_datetime"],
            "summary_info_creation_datetime",
            "When an Office document was created.",
        ),
        integer(
            &["summary_info", "edit_time"],
            "summary_info_edit_time",
            "Time that an Office document was edited, in seconds.",
        ),
        text(
            &["summary_info", "last_author"],
            "summary_info_last_author",
            "Who saved an Office document last.",
        ),
        date(
            &["summary_info", "last_printed"],
            "summary_info_last_printed",
            "When an Office document was printed last.",
        ),
        date(
            &["summary_info", "last_saved"],
            "summary_info_last_saved",
            "When an Office document was saved last.",
        ),
        integer(
            &["summary_info", "page_count"],
            "summary_info_page_count",
            "Number of pages of an Office document.",
        ),
        integer(
            &["summary_info", "revision_number"],
            "summary_info_revision_number",
            "How often an Office document was saved.",
        ),
        integer(
            &["summary_info", "security"],
            "summary_info_security",
            "Protection of an Office document, as a set of bits; 0: none.",
        )
        .keep_zero(),
        text(
            &["summary_info", "template"],
            "summary_info_template",
            "Template that an Office document was made from.",
        ),
        text(&["summary_info", "title"], "summary_info_title", "Title of a document."),
        integer(
            &["summary_info", "word_count"],
            "summary_info_word_count",
            "Number of words of an Office document.",
        ),
    ],
);

pub(super) static PDF_INFO: Handler = Handler::off(
    "PdfInfo",
    "pdf_info",
    &[
        integer(&["acroform"], "acroform", "Number of /AcroForm entries of a PDF: it has forms."),
        integer(
            &["autoaction"],
            "autoaction",
            "Number of /AA entries of a PDF: actions that start by themselves.",
        ),
        integer(
            &["embedded_file"],
            "embedded_file",
            "Number of /EmbeddedFile entries of a PDF: it carries files.",
        ),
        integer(
            &["encrypted"],
            "encrypted",
            "Number of /Encrypt entries of a PDF: it is encrypted or needs a password.",
        ),
        integer(
            &["flash"],
            "flash",
            "Number of /RichMedia entries of a PDF: it carries media such as Flash.",
        ),
        text(&["header"], "header", "Header of a PDF, with the version of its format."),
        integer(&["javascript"], "javascript", "Number of /JavaScript entries of a PDF."),
        integer(
            &["jbig2_compression"],
            "jbig2_compression",
            "Number of /JBIG2Decode entries of a PDF: images in a format known for exploits.",
        ),
        integer(&["js"], "js", "Number of /JS entries of a PDF: it holds JavaScript."),
        integer(&["num_endobj"], "num_endobj", "Number of `endobj` words of a PDF."),
        integer(&["num_endstream"], "num_endstream", "Number of `endstream` words of a PDF."),
        integer(
            &["num_launch_actions"],
            "num_launch_actions",
            "Number of /Launch entries of a PDF: actions that start programs.",
        ),
        integer(&["num_obj"], "num_obj", "Number of `obj` words of a PDF."),
        integer(
            &["num_object_streams"],
            "num_object_streams",
            "Number of /ObjStm entries of a PDF: streams that can hide objects.",
        ),
        integer(&["num_pages"], "num_pages", "Number of pages of a PDF."),
        integer(&["num_stream"], "num_stream", "Number of `stream` words of a PDF."),
        integer(
            &["openaction"],
            "openaction",
            "Number of /OpenAction entries of a PDF: actions that run when it is opened.",
        ),
        integer(&["startxref"], "startxref", "Number of `startxref` words of a PDF."),
        integer(
            &["suspicious_colors"],
            "suspicious_colors",
            "Number of colours of a PDF that need more than three bytes, seen in exploits.",
        ),
        integer(&["trailer"], "trailer", "Number of `trailer` words of a PDF."),
        integer(&["xfa"], "xfa", "Number of /XFA entries of a PDF: forms in Adobe's XFA."),
        integer(&["xref"], "xref", "Number of `xref` words of a PDF."),
    ],
);

pub(super) static POWERSHELL_INFO: Handler = Handler::off(
    "PowershellInfo",
    "powershell_info",
    &[
        texts(&["cmdlets"], "cmdlets", "Cmdlet that a PowerShell script uses."),
        texts(
            &["cmdlets_alias"],
            "cmdlets_alias",
            "Alias of a cmdlet that a PowerShell script uses.",
        ),
        texts(&["dotnet_calls"], "dotnet_calls", "Method of .NET that a PowerShell script calls."),
        texts(&["functions"], "functions", "Function that a PowerShell script defines or calls."),
        texts(&["ps_variables"], "ps_variables", "Variable that a PowerShell script uses."),
    ],
);

pub(super) static RTF_INFO: Handler = Handler::off(
    "RtfInfo",
    "rtf_info",
    &[
        integer(
            &["document_properties", "custom_xml_data_properties"],
            "document_properties_custom_xml_data_properties",
            "Number of custom XML data properties of an RTF document.",
        ),
        text(
            &["document_properties", "default_ansi_codepage"],
            "document_properties_default_ansi_codepage",
            "Default ANSI code page of an RTF document.",
        ),
        text(
            &["document_properties", "default_character_set"],
            "document_properties_default_character_set",
            "Default character set of an RTF document.",
        ),
        texts(
            &["document_properties", "default_languages"],
            "document_properties_default_languages",
            "Default language of an RTF document.",
        ),
        integer(
            &["document_properties", "dos_stubs"],
            "document_properties_dos_stubs",
            "Number of programs for DOS or Windows in an RTF document, found by their stubs.",
        ),
        integer(
            &["document_properties", "embedded_drawings"],
            "document_properties_embedded_drawings",
            "Number of drawings in an RTF document.",
        ),
        integer(
            &["document_properties", "embedded_pictures"],
            "document_properties_embedded_pictures",
            "Number of pictures in an RTF document.",
        ),
        integer(
            &["document_properties", "longest_hex_string"],
            "document_properties_longest_hex_string",
            "Length of the longest hexadecimal string in an RTF document, in characters.",
        ),
        integer(
            &["document_properties", "non_ascii_characters"],
            "document_properties_non_ascii_characters",
            "Number of characters beyond ASCII in an RTF document.",
        ),
        text(
            &["class"],
            "document_properties_objects_class",
            "Class of an object in an RTF document; label: the same class.",
        )
        .in_list(&["document_properties", "objects"], "class"),
        text(
            &["type"],
            "document_properties_objects_type",
            "Type of an object in an RTF document; label: its class.",
        )
        .in_list(&["document_properties", "objects"], "class"),
        boolean(
            &["document_properties", "read_only_protection"],
            "document_properties_read_only_protection",
            "Whether an RTF document is protected from changes.",
        ),
        text(
            &["document_properties", "rtf_header"],
            "document_properties_rtf_header",
            "Header of an RTF document.",
        ),
        boolean(
            &["document_properties", "user_protection"],
            "document_properties_user_protection",
            "Whether an RTF document lets only some users edit parts of it.",
        ),
        text(&["summary_info", "author"], "summary_info_author", "Author of a document."),
        text(
            &["summary_info", "company"],
            "summary_info_company",
            "Company that an RTF document names.",
        ),
        text(
            &["summary_info", "creation_time"],
            "summary_info_creation_time",
            "When an RTF document was created, as VirusTotal writes it.",
        ),
        integer(
            &["summary_info", "editing_time"],
            "summary_info_editing_time",
            "Time that an RTF document was edited, in minutes.",
        ),
        integer(
            &["summary_info", "number_of_characters"],
            "summary_info_number_of_characters",
            "Number of characters of an RTF document.",
        ),
        integer(
            &["summary_info", "number_of_non_whitespace_characters"],
            "summary_info_number_of_non_whitespace_characters",
            "Number of characters of an RTF document, blanks left out.",
        ),
        integer(
            &["summary_info", "number_of_pages"],
            "summary_info_number_of_pages",
            "Number of pages of an RTF document.",
        ),
        integer(
            &["summary_info", "number_of_words"],
            "summary_info_number_of_words",
            "Number of words of an RTF document.",
        ),
        text(
            &["summary_info", "operator"],
            "summary_info_operator",
            "Who changed an RTF document last.",
        ),
        text(
            &["summary_info", "print_time"],
            "summary_info_print_time",
            "When an RTF document was printed last, as VirusTotal writes it.",
        ),
        text(
            &["summary_info", "revision_time"],
            "summary_info_revision_time",
            "When an RTF document was revised last, as VirusTotal writes it.",
        ),
        text(&["summary_info", "title"], "summary_info_title", "Title of a document."),
        integer(
            &["summary_info", "version"],
            "summary_info_version",
            "Version of an RTF document.",
        ),
        integer(
            &["summary_info", "version_number"],
            "summary_info_version_number",
            "Internal version number of an RTF document.",
        ),
    ],
);

pub(super) static SWF_INFO: Handler = Handler::off(
    "SwfInfo",
    "swf_info",
    &[
        text(&["compression"], "compression", "Compression of a Flash file, such as zlib."),
        float(&["duration"], "duration", "Duration of a Flash file, in seconds."),
        texts(
            &["file_attributes"],
            "file_attributes",
            "Attribute of a Flash file, such as ActionScript3.",
        ),
        texts(
            &["flash_packages"],
            "flash_packages",
            "ActionScript package that a Flash file uses.",
        ),
        integer(&["frame_count"], "frame_count", "Number of frames of a Flash file."),
        text(&["frame_size"], "frame_size", "Size of the frames of a Flash file."),
        text(&["metadata"], "metadata", "Metadata of a Flash file."),
        text(&["num_swf_tags"], "num_swf_tags", "Number of tags of a Flash file."),
        integer(
            &["num_unrecognized_tags"],
            "num_unrecognized_tags",
            "Number of tags of a Flash file that its format does not know.",
        ),
        texts(
            &["suspicious_strings"],
            "suspicious_strings",
            "String in a Flash file that malware often has.",
        ),
        texts(
            &["suspicious_urls"],
            "suspicious_urls",
            "Web address in a Flash file that looks suspicious.",
        ),
        integer(&["version"], "version", "Version of Flash that a file is made for."),
    ],
);

pub(super) static VBA_INFO: Handler = Handler::off(
    "VbaInfo",
    "vba_info",
    &[
        texts(
            &["deobfuscated_strings"],
            "deobfuscated_strings",
            "String in a Visual Basic macro after its disguise was removed.",
        ),
        texts(&["strings"], "strings", "Notable string in the file."),
    ],
);
