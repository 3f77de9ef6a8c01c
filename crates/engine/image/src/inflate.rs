//! Archives as people have them: a tar, plain or packed with gzip, zstd, xz or bzip2. Layers have only the first three
//! (the OCI specification knows no others), so what is packed otherwise is inflated on its way in and never kept as it came.

use std::io::{self, Read};

use crate::store::Packing;

/// What an archive may ask of memory to be inflated: xz lets its writer choose, up to 4 GiB. `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB_MAX: u32 = 256 << 10;

const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// Whether these first bytes (up to 512) are those of an archive that [`inflate`] takes.
pub fn is_archive(head: &[u8]) -> bool {
    // Nothing but zeros is a file like any other, unless somebody says that it is a tar.
    let zeros = head.iter().all(|byte| *byte == 0);
    head.starts_with(&XZ) || is_bzip2(head) || (!zeros && Packing::sniff(head).is_some())
}

/// The tar in `input`, of which `head` was read already; nothing if it is no archive.
pub(crate) fn inflate<'r>(
    head: Vec<u8>,
    input: impl Read + Send + 'r,
) -> io::Result<Option<Box<dyn Read + Send + 'r>>> {
    let packing = Packing::sniff(&head);
    let (xz, bzip2) = (head.starts_with(&XZ), is_bzip2(&head));
    let whole = io::Cursor::new(head).chain(input);
    if xz {
        return Ok(Some(Box::new(lzma_rust2::XzReader::new_mem_limit(whole, true, XZ_MEMORY_KIB_MAX))));
    }
    if bzip2 {
        return Ok(Some(Box::new(bzip2::read::MultiBzDecoder::new(whole))));
    }
    packing.map(|packing| packing.reader(whole)).transpose()
}

/// `BZh`, a digit, and the first block's or the end's magic number.
fn is_bzip2(head: &[u8]) -> bool {
    let block = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
    let end = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];
    head.starts_with(b"BZh")
        && head.get(3).is_some_and(|level| (b'1'..=b'9').contains(level))
        && head.get(4..10).is_some_and(|magic| magic == block || magic == end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_first_bytes() {
        for (head, expected) in [
            (&b"\xfd7zXZ\0rest"[..], true),
            (b"BZh91AY&SYrest", true),
            (b"BZh9 is how a letter begins", false),
            (b"\x1f\x8brest", true),
            (b"\x28\xb5\x2f\xfdrest", true),
            (b"", false),
            (b"text", false),
            (&[0; 512], false),
        ] {
            assert_eq!(is_archive(head), expected, "{head:?}");
        }
    }

    #[test]
    fn bzip2_members_one_after_another_are_one_stream() {
        use std::io::Write;
        let packed = |text: &[u8]| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let both = [packed(b"one "), packed(b"two")].concat();
        let mut text = String::new();
        inflate(both[..20].to_vec(), &both[20..]).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }

    /// An archive that wants a dictionary of 4 GiB is refused before anything is allocated.
    #[test]
    fn xz_takes_no_more_memory_than_it_may() {
        // Stream header (no check), a block header that asks for the largest dictionary, and no data.
        let mut bytes = XZ.to_vec();
        bytes.extend([0, 0, 0xff, 0x12, 0xd9, 0x41]);
        let block = [0x02, 0x00, 0x21, 0x01, 40, 0, 0, 0];
        bytes.extend(block);
        bytes.extend(crc32(&block).to_le_bytes());
        bytes.extend([1, 0, 0, b'a', 0]);
        let error = inflate(bytes.clone(), io::empty()).unwrap().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    }
}
