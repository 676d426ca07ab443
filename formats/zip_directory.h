// What a zip file holds and where, read strictly. Only stored entries are taken: their bytes can be
// read in place, and nothing has to be unpacked that could be a thousand times as large.
//
// Taken is a file whose directory ends with the file (no comment, one disk, ZIP64 or not) and whose
// entries lie before it without overlap, each behind a local header of the same name. Sizes are the
// directory's: where a writer streams, local headers have none. Checksums are not compared (torch
// may leave them out).
//
// LOCAL. THREADS: any. Throws FileProblem (file_problem.h), or what FileReader throws.
// Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3.
#pragma once
#include "base/files.h"

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::formats {

struct ZipEntry {
  std::string name;
  std::uint64_t begin_bytes = 0;  ///< of its data, from the start of the file
  std::uint64_t size_bytes = 0;
};

/// In the order of the directory; names are unique.
std::vector<ZipEntry> read_zip_directory(const FileReader& file);

}  // namespace trestle::formats
