//! Takes the files of Swagger UI that the API documentation uses out of the vendored archive, and compresses them. The
//! archive unpacked would be a sixth of the program.

use std::fs::File;
use std::io::{self, Cursor};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipArchive;

const FILES: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let directory = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut archive = ZipArchive::new(Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED))?;
    for name in FILES {
        let end = format!("/dist/{name}");
        let path = archive.file_names().flatten().find(|path| path.ends_with(&end)).ok_or(name)?.into_owned();
        let mut compressed = GzEncoder::new(File::create(directory.join(format!("{name}.gz")))?, Compression::best());
        io::copy(&mut archive.by_name(&path)?, &mut compressed)?;
        compressed.finish()?;
    }
    Ok(())
}
