//! The inputs that are kept: a folder of files for the fuzzer, one file for the repository. In that, each input is behind
//! its length of two bytes, and the order is that of the names, which are of the inputs' content: it does not change
//! what is not changed.

use std::io::{Result, Write};
use std::path::Path;
use std::{env, fs};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["pack", folder, file] => pack(Path::new(folder), Path::new(file)),
        ["unpack", file, folder] => unpack(Path::new(file), Path::new(folder)),
        _ => panic!("corpus pack FOLDER FILE, or corpus unpack FILE FOLDER"),
    }
}

fn pack(folder: &Path, file: &Path) -> Result<()> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort_unstable();
    let mut packed = Vec::new();
    for path in &paths {
        let input = fs::read(path)?;
        let length = u16::try_from(input.len()).expect("the fuzzer makes shorter ones");
        packed.write_all(&length.to_be_bytes())?;
        packed.write_all(&input)?;
    }
    fs::write(file, &packed)?;
    println!("{}: {} inputs, {} bytes", file.display(), paths.len(), packed.len());
    Ok(())
}

fn unpack(file: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let packed = fs::read(file)?;
    let mut rest = &*packed;
    let mut count = 0;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (input, behind) = behind.split_at(u16::from_be_bytes(*length).into());
        fs::write(folder.join(format!("kept-{count:05}")), input)?;
        rest = behind;
        count += 1;
    }
    Ok(())
}
