// What the writers of HDF5 bytes share: the library works on a file in memory (formats/hdf5.h says
// why). For the .cpp files of this room that see HDF5's own header. LOCAL. THREADS: as
// formats/hdf5.h.
#pragma once
#include "formats/hdf5.h"

#include <string>
#include <string_view>

namespace trestle::formats {

/// The innermost entry of HDF5's error stack.
std::string h5_reason();

/// Throws ExitCode::checkpoint with that reason.
[[noreturn]] void fail_h5(std::string_view what);

/// An unnamed file in memory, which other code can open by its path.
class H5MemoryFile {
 public:
  H5MemoryFile();
  ~H5MemoryFile();
  H5MemoryFile(const H5MemoryFile&) = delete;
  H5MemoryFile& operator=(const H5MemoryFile&) = delete;
  std::string path() const;

 private:
  int descriptor_;
};

/// Properties of such a file: plain writes, no locks.
H5Handle h5_file_access();

/// Properties of links: folders of a name become groups.
H5Handle h5_links();

}  // namespace trestle::formats
