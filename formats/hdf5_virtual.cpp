#include "formats/hdf5_virtual.h"

#include "base/error.h"
#include "base/files.h"
#include "formats/hdf5_memory.h"

#include <hdf5.h>

#include <algorithm>

namespace trestle::formats {
namespace {

std::uint64_t elements_of(std::span<const std::int64_t> shape) {
  std::uint64_t count = 1;
  for (const std::int64_t extent : shape) count *= static_cast<std::uint64_t>(extent);
  return count;
}

/// HDF5 takes a "%b" in a source's name for a block's number.
std::string escaped(const std::string& name) {
  std::string text;
  for (const char c : name) text += c == '%' ? std::string("%%") : std::string(1, c);
  return text;
}

H5Handle simple_space(std::span<const std::int64_t> shape) {
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  return {extents.empty()
              ? H5Screate(H5S_SCALAR)
              : H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
          H5Sclose};
}

void select(hid_t space, const H5Box& box) {
  const std::vector<hsize_t> first(box.first.begin(), box.first.end());
  const std::vector<hsize_t> size(box.size.begin(), box.size.end());
  if (H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, size.data(), nullptr) < 0)
    fail_h5("selecting a part of a dataset");
}

/// Tells the properties where the elements of a source appear.
void map_source(hid_t properties, const H5Virtual& whole, const H5Source& source) {
  const std::string file = escaped(source.file), dataset = escaped(source.dataset);
  const auto map = [&](hid_t to, hid_t from) {
    if (H5Pset_virtual(properties, to, file.c_str(), dataset.c_str(), from) < 0)
      fail_h5("showing " + source.dataset);
  };
  const H5Handle to = simple_space(whole.shape);
  if (source.end - source.begin == elements_of(whole.shape)) {
    const H5Handle from = simple_space(whole.shape);
    map(to.id(), from.id());
    return;
  }
  const std::int64_t count[] = {static_cast<std::int64_t>(source.end - source.begin)};
  const H5Handle from = simple_space(count);
  std::uint64_t at = 0;
  for (const H5Box& box : boxes_of_range(whole.shape, source.begin, source.end)) {
    std::uint64_t elements = 1;
    for (const std::uint64_t side : box.size) elements *= side;
    select(to.id(), box);
    select(from.id(), {{at}, {elements}});
    map(to.id(), from.id());
    at += elements;
  }
}

/// A float that is nowhere shall not look like a number.
void fill_with_nan(hid_t properties, ElementType type, hid_t h5_type_id) {
  const bool is_float = type == ElementType::float64 || type == ElementType::float32 ||
                        type == ElementType::float16 || type == ElementType::bfloat16;
  if (!is_float) return;
  // All exponent bits and a mantissa bit; in each of these types all ones are a NaN.
  const std::uint64_t ones = ~std::uint64_t{0};
  if (H5Pset_fill_value(properties, h5_type_id, &ones) < 0) fail_h5("setting the fill value");
}

void create_virtual(hid_t file, hid_t links, const H5Virtual& dataset) {
  const H5Handle type = h5_type(dataset.type);
  const H5Handle space = simple_space(dataset.shape);
  const H5Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  if (H5Pset_obj_track_times(properties.id(), false) < 0) fail_h5("setting properties");
  const bool has_elements = !dataset.elements.empty() || elements_of(dataset.shape) == 0;
  if (has_elements) {
    const bool is_compact = H5Pset_layout(properties.id(), H5D_COMPACT) >= 0;
    TRESTLE_ASSERT(is_compact, "HDF5 refused a compact dataset: {}", h5_reason());
  } else {
    fill_with_nan(properties.id(), dataset.type, type.id());
    for (const H5Source& source : dataset.sources) map_source(properties.id(), dataset, source);
  }
  const H5Handle made(H5Dcreate2(file, dataset.name.c_str(), type.id(), space.id(), links,
                                 properties.id(), H5P_DEFAULT),
                      H5Dclose);
  if (!made.valid()) fail_h5("creating " + dataset.name);
  if (dataset.elements.empty()) return;
  TRESTLE_ASSERT(
      dataset.elements.size() == elements_of(dataset.shape) * element_bytes(dataset.type),
      "{} does not have its elements", dataset.name);
  if (H5Dwrite(made.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, dataset.elements.data()) < 0)
    fail_h5("writing " + dataset.name);
}

H5Handle text_type() {
  H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const bool ok =
      H5Tset_size(type.id(), H5T_VARIABLE) >= 0 && H5Tset_cset(type.id(), H5T_CSET_UTF8) >= 0;
  TRESTLE_ASSERT(ok, "HDF5 refused a text type: {}", h5_reason());
  return type;
}

void write_attribute(hid_t file, const std::string& name, const H5Attribute& attribute) {
  const H5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const auto write = [&](hid_t type, const void* value) {
    const H5Handle made(H5Acreate2(file, name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
                        H5Aclose);
    if (!made.valid() || H5Awrite(made.id(), type, value) < 0) fail_h5("writing " + name);
  };
  if (const auto* integer = std::get_if<std::int64_t>(&attribute)) {
    write(H5T_STD_I64LE, integer);
  } else if (const auto* number = std::get_if<double>(&attribute)) {
    write(H5T_IEEE_F64LE, number);
  } else {
    const char* text = std::get<std::string>(attribute).c_str();
    write(text_type().id(), &text);
  }
}

}  // namespace

std::vector<H5Box> boxes_of_range(std::span<const std::int64_t> shape, std::uint64_t begin,
                                  std::uint64_t end) {
  std::vector<std::uint64_t> stride(shape.size(), 1);  // elements of one step along each axis
  for (std::size_t axis = shape.size(); axis-- > 1;)
    stride[axis - 1] = stride[axis] * static_cast<std::uint64_t>(shape[axis]);
  std::vector<H5Box> boxes;
  while (begin < end) {
    // The outermost axis along which whole steps fit from here on.
    std::size_t axis = 0;
    while (axis + 1 < shape.size() && (begin % stride[axis] != 0 || end - begin < stride[axis]))
      ++axis;
    H5Box box;
    std::uint64_t rest = begin;
    for (std::size_t a = 0; a < shape.size(); ++a) {
      box.first.push_back(rest / stride[a]);
      rest %= stride[a];
      box.size.push_back(a < axis ? 1 : static_cast<std::uint64_t>(shape[a]));
    }
    const std::uint64_t to_edge = static_cast<std::uint64_t>(shape[axis]) - box.first[axis];
    box.size[axis] = std::min(to_edge, (end - begin) / stride[axis]);
    begin += box.size[axis] * stride[axis];
    boxes.push_back(std::move(box));
  }
  return boxes;
}

std::vector<std::byte> virtual_h5(std::span<const H5Virtual> datasets,
                                  const std::map<std::string, H5Attribute>& attributes) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors are asked for, not printed
  const H5MemoryFile memory;
  {
    const H5Handle access = h5_file_access();
    const H5Handle links = h5_links();
    H5Handle file(H5Fcreate(memory.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id()),
                  H5Fclose);
    if (!file.valid()) fail_h5("creating the file");
    for (const auto& [name, value] : attributes) write_attribute(file.id(), name, value);
    for (const H5Virtual& dataset : datasets) create_virtual(file.id(), links.id(), dataset);
    if (!file.reset()) fail_h5("closing the file");
  }
  const FileReader written(memory.path(), ExitCode::checkpoint);
  std::vector<std::byte> bytes(written.size_bytes());
  written.read_exact(0, bytes);
  return bytes;
}

}  // namespace trestle::formats
