#include "formats/hdf5.h"

#include "base/error.h"
#include "base/files.h"
#include "formats/hdf5_memory.h"

#include <hdf5.h>

#include <algorithm>
#include <type_traits>

namespace trestle::formats {
namespace {

static_assert(std::is_same_v<hid_t, std::int64_t>, "H5Handle keeps an HDF5 id in 64 bits");

H5Handle dataset_properties() {
  H5Handle dataset(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const bool ok = H5Pset_layout(dataset.id(), H5D_CONTIGUOUS) >= 0 &&
                  H5Pset_alloc_time(dataset.id(), H5D_ALLOC_TIME_EARLY) >= 0 &&
                  H5Pset_fill_time(dataset.id(), H5D_FILL_TIME_NEVER) >= 0 &&
                  H5Pset_obj_track_times(dataset.id(), false) >= 0;
  TRESTLE_ASSERT(ok, "HDF5 refused the dataset properties: {}", h5_reason());
  return dataset;
}

hid_t float_type(std::size_t exponent_bits, std::size_t mantissa_bits) {
  const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  const std::size_t sign_at = exponent_bits + mantissa_bits;
  const bool ok =
      H5Tset_fields(type, sign_at, mantissa_bits, exponent_bits, 0, mantissa_bits) >= 0 &&
      H5Tset_size(type, (1 + sign_at) / 8) >= 0 &&
      H5Tset_ebias(type, (std::size_t{1} << (exponent_bits - 1)) - 1) >= 0;
  TRESTLE_ASSERT(ok, "HDF5 refused a float type of {}+{} bits", exponent_bits, mantissa_bits);
  return type;
}

hid_t boolean_type() {
  const hid_t type = H5Tenum_create(H5T_STD_I8LE);
  const signed char no = 0, yes = 1;
  const bool ok =
      H5Tenum_insert(type, "FALSE", &no) >= 0 && H5Tenum_insert(type, "TRUE", &yes) >= 0;
  TRESTLE_ASSERT(ok, "HDF5 refused the boolean type");
  return type;
}

/// Makes the HDF5 file and returns the offsets of the datasets' data.
std::vector<std::uint64_t> create_datasets(const std::string& path,
                                           std::span<const H5Dataset> datasets) {
  const H5Handle access = h5_file_access();
  const H5Handle links = h5_links();
  const H5Handle contiguous = dataset_properties();
  H5Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id()), H5Fclose);
  if (!file.valid()) fail_h5("creating the file");

  std::vector<std::uint64_t> offsets;
  for (const H5Dataset& dataset : datasets) {
    const std::vector<hsize_t> extents(dataset.shape.begin(), dataset.shape.end());
    const H5Handle space(extents.empty() ? H5Screate(H5S_SCALAR)
                                         : H5Screate_simple(static_cast<int>(extents.size()),
                                                            extents.data(), nullptr),
                         H5Sclose);
    const H5Handle made(H5Dcreate2(file.id(), dataset.name.c_str(), h5_type(dataset.type).id(),
                                   space.id(), links.id(), contiguous.id(), H5P_DEFAULT),
                        H5Dclose);
    if (!made.valid()) fail_h5("creating " + dataset.name);
    const haddr_t offset = dataset.bytes() == 0 ? 0 : H5Dget_offset(made.id());
    if (offset == HADDR_UNDEF) fail_h5("placing " + dataset.name);
    offsets.push_back(offset);
  }
  if (!file.reset()) fail_h5("closing the file");
  return offsets;
}

}  // namespace

H5Handle h5_type(ElementType type) {
  switch (type) {
    case ElementType::float64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case ElementType::float32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case ElementType::float16:
      return {float_type(5, 10), H5Tclose};
    case ElementType::bfloat16:
      return {float_type(8, 7), H5Tclose};
    case ElementType::int64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case ElementType::int32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case ElementType::uint8:
      return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
    case ElementType::boolean:
      return {boolean_type(), H5Tclose};
    default:
      break;
  }
  assertion_failed("h5_holds(type)", __FILE__, __LINE__,
                   fmt::format("{} has no HDF5 type here", element_name(type)));
}

std::uint64_t H5Dataset::bytes() const {
  std::uint64_t count = element_bytes(type);
  for (const std::int64_t extent : shape) count *= static_cast<std::uint64_t>(extent);
  return count;
}

H5Layout lay_out_h5(std::span<const H5Dataset> datasets) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors are asked for, not printed
  const H5MemoryFile memory;
  H5Layout layout;
  layout.offsets = create_datasets(memory.path(), datasets);

  // All that lies outside of the datasets is HDF5's own.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> data;
  for (std::size_t i = 0; i < datasets.size(); ++i)
    data.emplace_back(layout.offsets[i], layout.offsets[i] + datasets[i].bytes());
  std::ranges::sort(data);
  const FileReader file(memory.path(), ExitCode::environment);
  layout.file_bytes = file.size_bytes();
  data.emplace_back(layout.file_bytes, layout.file_bytes);
  std::uint64_t at = 0;
  for (const auto& [begin, end] : data) {
    if (begin > at) {
      layout.parts.push_back({at, std::vector<std::byte>(begin - at)});
      file.read_exact(at, layout.parts.back().bytes);
    }
    at = std::max(at, end);
  }
  return layout;
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace trestle::formats
