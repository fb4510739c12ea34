//! The catalogue: programs for Windows, Linux, .NET and Java.

use super::row::{FeatureKind, Handler, Special, dictionary, float, integer, text, texts};

pub(super) static AUTHENTIHASH: Handler = Handler::on(
    "Authentihash",
    "",
    &[text(
        &["authentihash"],
        "pe_authentihash",
        "Hash of a Windows executable as code signing computes it, without its signature.",
    )],
);

pub(super) static ELF_INFO: Handler = Handler::on(
    "ElfInfo",
    "elf_info",
    &[
        text(
            &["name"],
            "export_list_name",
            "Name of a symbol that an ELF file exports; label: the same name.",
        )
        .in_list(&["export_list"], "name"),
        text(
            &["type"],
            "export_list_type",
            "Type of a symbol that an ELF file exports; label: the symbol.",
        )
        .in_list(&["export_list"], "name"),
        text(&["header", "type"], "header_type", "Type of an ELF file, such as EXEC or DYN."),
        text(
            &["header", "hdr_version"],
            "header_hdr_version",
            "Version that an ELF file's header gives of itself.",
        ),
        integer(
            &["header", "num_prog_headers"],
            "header_num_prog_headers",
            "Number of program headers of an ELF file.",
        ),
        text(
            &["header", "os_abi"],
            "header_os_abi",
            "Application binary interface that an ELF file is made for.",
        ),
        text(
            &["header", "obj_version"],
            "header_obj_version",
            "Version of the object file format that an ELF file uses.",
        ),
        text(&["header", "machine"], "header_machine", "Processor that an ELF file is made for."),
        integer(
            &["header", "entrypoint"],
            "header_entrypoint",
            "Virtual address of the entry point of an ELF file.",
        ),
        text(
            &["header", "num_section_headers"],
            "header_num_section_headers",
            "Number of section headers of an ELF file.",
        ),
        integer(
            &["header", "abi_version"],
            "header_abi_version",
            "Version of the application binary interface of an ELF file.",
        ),
        text(
            &["header", "data"],
            "header_data",
            "Byte order and coding of the data of an ELF file.",
        ),
        text(&["header", "class"], "header_class", "Word size of an ELF file, ELF32 or ELF64."),
        text(
            &["name"],
            "import_list_name",
            "Name of a symbol that an ELF file imports; label: the same name.",
        )
        .in_list(&["import_list"], "name"),
        text(
            &["type"],
            "import_list_type",
            "Type of a symbol that an ELF file imports; label: the symbol.",
        )
        .in_list(&["import_list"], "name"),
        texts(&["packers"], "packers", "Packer that was recognised on an ELF file."),
        text(
            &["name"],
            "section_list_name",
            "Name of a section of an ELF file; label: the same name.",
        )
        .in_list(&["section_list"], "name"),
        integer(
            &["virtual_address"],
            "section_list_virtual_address",
            "Virtual address of a section of an ELF file; label: the section.",
        )
        .in_list(&["section_list"], "name"),
        text(
            &["flags"],
            "section_list_flags",
            "Flags of a section of an ELF file; label: the section.",
        )
        .in_list(&["section_list"], "name"),
        integer(
            &["physical_offset"],
            "section_list_physical_offset",
            "Offset of a section in an ELF file, in bytes; label: the section.",
        )
        .in_list(&["section_list"], "name"),
        text(
            &["section_type"],
            "section_list_section_type",
            "Type of a section of an ELF file; label: the section.",
        )
        .in_list(&["section_list"], "name"),
        integer(
            &["size"],
            "section_list_size",
            "Size of a section of an ELF file, in bytes; label: the section.",
        )
        .in_list(&["section_list"], "name"),
        text(
            &["segment_type"],
            "segment_list_segment_type",
            "Type of a segment of an ELF file; label: the same type.",
        )
        .in_list(&["segment_list"], "segment_type"),
        texts(
            &["resources"],
            "segment_list_resources",
            "Section that a segment of an ELF file holds; label: the type of the segment.",
        )
        .in_list(&["segment_list"], "segment_type"),
        texts(
            &["shared_libraries"],
            "shared_libraries",
            "Shared library that an ELF file is linked to.",
        ),
    ],
);

pub(super) static PE_INFO: Handler = Handler::on(
    "PeInfo",
    "pe_info",
    &[
        integer(
            &["entry_point"],
            "entry_point",
            "Address of the entry point of a Windows executable, relative to its image base.",
        ),
        texts(&["exports"], "exports", "Name of a function that a Windows executable exports."),
        text(
            &["imphash"],
            "imphash",
            "Hash of the imported functions of a Windows executable, for finding related files.",
        ),
        texts(
            &["imported_functions"],
            "import_list_imported_functions",
            "Function that a Windows executable imports; label: the library it comes from.",
        )
        .in_list(&["import_list"], "library_name"),
        text(
            &["library_name"],
            "import_list_library_name",
            "Library that a Windows executable imports from; label: the same name.",
        )
        .in_list(&["import_list"], "library_name"),
        integer(
            &["machine_type"],
            "machine_type",
            "Processor that a Windows executable is made for, as the number in its header.",
        ),
        float(
            &["overlay", "chi2"],
            "overlay_chi2",
            "Chi-squared test of the bytes behind the image of a Windows executable.",
        ),
        float(
            &["overlay", "entropy"],
            "overlay_entropy",
            "Entropy of the bytes behind the image of a Windows executable, 0 to 8 bits per byte.",
        ),
        text(
            &["overlay", "filetype"],
            "overlay_filetype",
            "Type of the data behind the image of a Windows executable.",
        ),
        text(
            &["overlay", "md5"],
            "overlay_md5",
            "MD5 of the data behind the image of a Windows executable.",
        ),
        integer(
            &["overlay", "offset"],
            "overlay_offset",
            "Where the data behind the image of a Windows executable starts, in bytes.",
        ),
        integer(
            &["overlay", "size"],
            "overlay_size",
            "Size of the data behind the image of a Windows executable, in bytes.",
        ),
        float(
            &["chi2"],
            "resource_details_chi2",
            "Chi-squared test of the bytes of a resource; label: the resource's sha256.",
        )
        .in_list(&["resource_details"], "sha256"),
        float(
            &["entropy"],
            "resource_details_entropy",
            "Entropy of a resource, in bits per byte, 0 to 8; label: the resource's sha256.",
        )
        .in_list(&["resource_details"], "sha256"),
        text(
            &["filetype"],
            "resource_details_filetype",
            "Type of the data in a resource; label: the resource's sha256.",
        )
        .in_list(&["resource_details"], "sha256"),
        text(
            &["lang"],
            "resource_details_lang",
            "Language of a resource; label: the resource's sha256.",
        )
        .in_list(&["resource_details"], "sha256"),
        text(
            &["sha256"],
            "resource_details_sha256",
            "SHA-256 of a resource of a Windows executable; label: the same hash.",
        )
        .in_list(&["resource_details"], "sha256"),
        text(
            &["type"],
            "resource_details_type",
            "Type of a resource, such as RT_ICON; label: the resource's sha256.",
        )
        .in_list(&["resource_details"], "sha256"),
        dictionary(
            &["resource_langs"],
            "resource_langs",
            "Language of resources of a Windows executable; label: number of resources.",
        ),
        dictionary(
            &["resource_types"],
            "resource_types",
            "Type of resources of a Windows executable; label: number of resources.",
        ),
        float(
            &["entropy"],
            "sections_entropy",
            "Entropy of a section of an executable, 0 to 8 bits per byte; label: the section.",
        )
        .in_list(&["sections"], "name"),
        text(
            &["md5"],
            "sections_md5",
            "MD5 of a section of a Windows executable; label: the section.",
        )
        .in_list(&["sections"], "name"),
        text(
            &["name"],
            "sections_name",
            "Name of a section of a Windows executable; label: the same name.",
        )
        .in_list(&["sections"], "name"),
        integer(
            &["raw_size"],
            "sections_raw_size",
            "Size of a section in a Windows executable's file, in bytes; label: the section.",
        )
        .in_list(&["sections"], "name"),
        integer(
            &["virtual_address"],
            "sections_virtual_address",
            "Address of a section, relative to the executable's image base; label: the section.",
        )
        .in_list(&["sections"], "name"),
        text(
            &["virtual_size"],
            "sections_virtual_size",
            "Size of a section of a Windows executable in memory, in bytes; label: the section.",
        )
        .in_list(&["sections"], "name"),
        text(
            &["timestamp"],
            "timestamp",
            "When a Windows executable was linked, as its header says.",
        )
        .special(Special::UnixTime)
        .emits(FeatureKind::Datetime),
    ],
);

pub(super) static CLASS_INFO: Handler = Handler::off(
    "ClassInfo",
    "class_info",
    &[
        texts(&["constants"], "constants", "Constant that a Java class uses."),
        text(&["extends"], "extends", "Class that a Java class extends."),
        texts(&["implements"], "implements", "Interface that a Java class implements."),
        texts(&["methods"], "class_methods", "Method of a Java class."),
        text(&["name"], "name", "Name of a Java class."),
        text(&["platform"], "platform", "Java platform that a class was compiled for."),
        texts(&["provides"], "provides", "Class, method or field that a Java class provides."),
        texts(&["requires"], "requires", "Class, method or field that a Java class requires."),
    ],
);

pub(super) static DETECTITEASY: Handler = Handler::off(
    "Detectiteasy",
    "detectiteasy",
    &[
        text(&["filetype"], "filetype", "Type of the file as Detect It Easy names it."),
        text(
            &["info"],
            "values_info",
            "Further information on something that Detect It Easy found; label: its name.",
        )
        .in_list(&["values"], "name"),
        text(
            &["version"],
            "values_version",
            "Version of something that Detect It Easy found; label: its name.",
        )
        .in_list(&["values"], "name"),
        text(
            &["type"],
            "values_type",
            "Kind of thing that Detect It Easy found, such as Compiler or Packer; label: its name.",
        )
        .in_list(&["values"], "name"),
        text(
            &["name"],
            "values_name",
            "Name of a compiler, packer or tool that Detect It Easy found; label: the same name.",
        )
        .in_list(&["values"], "name"),
    ],
);

pub(super) static DOT_NET_ASSEMBLY: Handler = Handler::off(
    "DotNetAssembly",
    "dot_net_assembly",
    &[
        dictionary(
            &["assembly_data"],
            "assembly_version",
            "Version of a .NET assembly: major, minor, build, revision; x, y, z, a where missing.",
        )
        .special(Special::VersionInfo),
        text(
            &["assembly_data", "culture"],
            "assembly_culture",
            "Culture that a .NET assembly is made for.",
        ),
        text(
            &["assembly_data", "flags_text"],
            "assembly_flags_text",
            "Flags of a .NET assembly, in words.",
        ),
        integer(
            &["assembly_data", "hashalgid"],
            "assembly_hashalgid",
            "Algorithm that hashes the files of a .NET assembly, as its number.",
        ),
        text(
            &["assembly_data", "name"],
            "assembly_name",
            "Name of a .NET assembly, from its manifest or of its module.",
        ),
        text(&["assembly_data", "pubkey"], "assembly_pubkey", "Public key of a .NET assembly."),
        text(
            &["assembly_flags_txt"],
            "assembly_flags_txt",
            "Flags of the common language runtime header of a .NET assembly, in words.",
        ),
        text(
            &["assembly_name"],
            "assembly_name",
            "Name of a .NET assembly, from its manifest or of its module.",
        ),
        text(
            &["clr_meta_version"],
            "clr_meta_version",
            "Version of the metadata header of a .NET assembly.",
        ),
        text(
            &["clr_version"],
            "clr_version",
            "Version of the common language runtime that a .NET assembly asks for.",
        ),
        integer(
            &["entry_point_rva"],
            "entry_point_rva",
            "Address of the native entry point of a .NET assembly, relative to its image base.",
        ),
        integer(
            &["entry_point_token"],
            "entry_point_token",
            "Metadata token of the method that a .NET assembly starts with.",
        ),
        dictionary(
            &["external_assemblies"],
            "external_assemblies",
            "Assembly that a .NET assembly refers to; label: its version.",
        )
        .special(Special::ExternalAssemblies),
        text(
            &["name"],
            "exported_types_name",
            "Name of a type that a .NET assembly exports; label: the same name.",
        )
        .in_list(&["exported_types"], "name"),
        text(
            &["namespace"],
            "exported_types_namespace",
            "Namespace of a type that a .NET assembly exports; label: the type.",
        )
        .in_list(&["exported_types"], "name"),
        texts(
            &["external_modules"],
            "external_modules",
            "Unmanaged module that a .NET assembly calls.",
        ),
        texts(
            &["manifest_resource"],
            "manifest_resource",
            "Name of a resource in the manifest of a .NET assembly.",
        ),
        integer(
            &["metadata_header_rva"],
            "metadata_header_rva",
            "Address of the metadata of a .NET assembly, relative to its image base.",
        ),
        integer(
            &["resources_va"],
            "resources_va",
            "Address of the resources of a .NET assembly, relative to its image base.",
        ),
        float(
            &["streams", "chi2"],
            "streams_chi2",
            "Chi-squared test of the bytes of a metadata stream of a .NET assembly.",
        ),
        float(
            &["streams", "entropy"],
            "streams_entropy",
            "Entropy of a metadata stream of a .NET assembly, in bits per byte, 0 to 8.",
        ),
        text(&["streams", "md5"], "streams_md5", "MD5 of a metadata stream of a .NET assembly."),
        integer(
            &["streams", "size"],
            "streams_size",
            "Size of a metadata stream of a .NET assembly, in bytes.",
        ),
        integer(
            &["strongname_va"],
            "strongname_va",
            "Address of the strong name signature of a .NET assembly, relative to its image base.",
        ),
        integer(
            &["tables_present"],
            "tables_present",
            "Number of metadata tables of a .NET assembly.",
        ),
        text(
            &["tables_rows_map"],
            "tables_rows_map",
            "Number of rows of each metadata table of a .NET assembly, in hexadecimal.",
        ),
        text(
            &["tables_rows_map_log"],
            "tables_rows_map_log",
            "Rough number of rows of each metadata table of a .NET assembly, to find similar ones.",
        ),
    ],
);

pub(super) static DOT_NET_GUIDS: Handler = Handler::off(
    "DotNetGuids",
    "dot_net_guids",
    &[
        text(&["mvid"], "mvid", "Identifier of a .NET module that changes with each build."),
        text(
            &["typelib_id"],
            "typelib_id",
            "Identifier of the type library of a .NET assembly, which mostly stays with a project.",
        ),
    ],
);
