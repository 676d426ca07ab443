// An HDF5 file of virtual datasets: each shows, as one whole, what lies in pieces in other files
// beside it. For people with h5py; made in memory, as formats/hdf5.h makes files.
//
//   const auto bytes = virtual_h5({{.name = "model/x.weight", .type = float32, .shape = {4, 3},
//       .sources = {{"shard-0.h5", "model/x.weight[0:5]", 0, 5}, ...}}}, attributes);
//   write_file_durable(folder / "index.h5", bytes, ExitCode::checkpoint);
//
// LOCAL. THREADS: as formats/hdf5.h. ERRORS: ExitCode::checkpoint with HDF5's innermost reason.
#pragma once
#include "formats/element_type.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace trestle::formats {

/// Elements [begin, end) of the flattened whole: those of a dataset of as many elements.
struct H5Source {
  std::string file;     ///< beside the file of the virtual dataset
  std::string dataset;  ///< one-dimensional; of the whole's shape where it is the only one
  std::uint64_t begin = 0, end = 0;
};

struct H5Virtual {
  std::string name;  ///< folders become groups
  ElementType type = ElementType::float32;
  std::vector<std::int64_t> shape;
  std::vector<H5Source> sources;
  /// The elements themselves, for those that no virtual dataset can show: a scalar's.
  std::vector<std::byte> elements = {};
};

using H5Attribute = std::variant<std::int64_t, double, std::string>;

/// The bytes of the file. Floats that are nowhere (a file is missing: HDF5 says nothing then) read
/// as NaN. Attributes are those of the root; texts are UTF-8 and end at a NUL byte.
std::vector<std::byte> virtual_h5(std::span<const H5Virtual> datasets,
                                  const std::map<std::string, H5Attribute>& attributes);

/// A box of an array: first indices and sizes, one an axis.
struct H5Box {
  std::vector<std::uint64_t> first, size;
};

/// Elements [begin, end) of a flattened array as boxes in the order of the elements; each is
/// contiguous, so that it takes the elements of a flat range in order.
std::vector<H5Box> boxes_of_range(std::span<const std::int64_t> shape, std::uint64_t begin,
                                  std::uint64_t end);

}  // namespace trestle::formats
