// HDF5, as far as a checkpoint needs it: the bytes of a file around its datasets, and where in the
// file the data of each dataset lies. The caller writes both by plain writes, and readers need no
// HDF5 library; h5py and h5dump see an ordinary file of contiguous datasets.
//
// Why the library never touches the disk: with 1.10.8, a disk that fills up while it flushes leaves
// file descriptors open (and their space taken) and crashes the process at exit. A plain write just
// fails. So it works on a file in memory, which holds only its own few kilobytes: data is a hole.
// Choices: no chunks and no compression, space allocated early and never filled, no time stamps
// (equal content gives equal bytes), no file locks.
//
// LOCAL. THREADS: any, if the HDF5 library was built thread-safe (Debian's is); else one at a time.
//
//   const H5Layout layout = lay_out_h5(datasets);   // {"model/norm.weight", float32, {128}}, ...
//   FileWriter file(path, ExitCode::checkpoint);
//   for (const auto& part : layout.parts) file.write_exact(part.offset, part.bytes);
//   file.write_exact(layout.offsets[0], data_of_first_dataset);
#pragma once
#include "formats/element_type.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace trestle::formats {

/// Owns one HDF5 id (file, group, dataset, type ...) and closes it with the function of its kind.
class H5Handle {
 public:
  using Close = int (*)(std::int64_t);
  H5Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  ~H5Handle() { reset(); }
  H5Handle(H5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  H5Handle& operator=(H5Handle&&) = delete;

  bool valid() const { return id_ >= 0; }
  std::int64_t id() const { return id_; }

  /// Closes now; false if HDF5 could not.
  bool reset() {
    const std::int64_t id = std::exchange(id_, -1);
    return id < 0 || close_(id) >= 0;
  }

 private:
  std::int64_t id_;
  Close close_;
};

/// The types that these files hold, and with them checkpoints.
inline constexpr std::array<ElementType, 8> kH5Types = {
    ElementType::float64, ElementType::float32, ElementType::float16, ElementType::bfloat16,
    ElementType::int64,   ElementType::int32,   ElementType::uint8,   ElementType::boolean};

constexpr bool h5_holds(ElementType type) {
  return std::ranges::find(kH5Types, type) != kH5Types.end();
}

/// The file type of an element, which is one of kH5Types. bfloat16 is a custom float of 1 sign, 8
/// exponent and 7 mantissa bits (the layout that HDF5 2.0 names H5T_FLOAT_BFLOAT16LE); bool is the
/// enumeration that h5py uses.
H5Handle h5_type(ElementType type);

struct H5Dataset {
  std::string name;  ///< "optim/exp_avg/x.weight": folders become groups
  ElementType type;
  std::vector<std::int64_t> shape;  ///< [] is a scalar

  std::uint64_t bytes() const;
  bool operator==(const H5Dataset&) const = default;
};

struct H5Layout {
  struct Part {
    std::uint64_t offset;
    std::vector<std::byte> bytes;
  };
  std::uint64_t file_bytes = 0;
  std::vector<std::uint64_t> offsets;  ///< of each dataset's data; 0 for one without elements
  std::vector<Part> parts;  ///< HDF5's own bytes: all that is not data, ascending in offset
};

/// The layout of a new file with these datasets. Equal datasets give equal layouts.
/// Errors: ExitCode::checkpoint with HDF5's innermost reason (a name that is used twice, say).
H5Layout lay_out_h5(std::span<const H5Dataset> datasets);

/// "1.10.8": the library that is loaded.
std::string hdf5_version();

}  // namespace trestle::formats
