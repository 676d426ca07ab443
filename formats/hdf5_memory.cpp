#include "formats/hdf5_memory.h"

#include "base/error.h"

#include <hdf5.h>

#include <cerrno>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace trestle::formats {

std::string h5_reason() {
  std::string reason;
  const auto keep_first = [](unsigned depth, const H5E_error2_t* entry, void* into) -> herr_t {
    if (depth == 0 && entry->desc != nullptr) *static_cast<std::string*>(into) = entry->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  return reason.empty() ? "no reason given by HDF5" : reason;
}

void fail_h5(std::string_view what) {
  fail(ExitCode::checkpoint,
       "The layout of an HDF5 file could not be made ({} failed: {}). "
       "Check the names of the training state.",
       what, h5_reason());
}

H5MemoryFile::H5MemoryFile() : descriptor_(::memfd_create("trestle-hdf5", MFD_CLOEXEC)) {
  if (descriptor_ < 0)
    fail(ExitCode::environment, "No file in memory could be made ({}). Check the memory limits.",
         std::generic_category().message(errno));
}

H5MemoryFile::~H5MemoryFile() { ::close(descriptor_); }

std::string H5MemoryFile::path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

/// The stdio driver writes the same files as the usual sec2, which refuses a path without a name in
/// the file system.
H5Handle h5_file_access() {
  H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const bool ok =
      H5Pset_fapl_stdio(access.id()) >= 0 && H5Pset_file_locking(access.id(), false, true) >= 0;
  TRESTLE_ASSERT(ok, "HDF5 refused the file properties: {}", h5_reason());
  return access;
}

H5Handle h5_links() {
  H5Handle link(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  const bool ok = H5Pset_create_intermediate_group(link.id(), 1) >= 0;
  TRESTLE_ASSERT(ok, "HDF5 refused the link properties: {}", h5_reason());
  return link;
}

}  // namespace trestle::formats
