// New HDF5 files, judged by the HDF5 library (and by h5py in tests/checkpoint/h5py_test.py).
#include "formats/hdf5.h"

#include "base/files.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

namespace trestle::formats {
namespace {

using trestle::testing::ScratchFolder;

std::vector<std::byte> counting_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

H5Handle open_file(const std::filesystem::path& path) {
  return {H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose};
}
H5Handle open_dataset(const H5Handle& file, const char* name) {
  return {H5Dopen2(file.id(), name, H5P_DEFAULT), H5Dclose};
}

std::vector<hsize_t> shape_of(const H5Handle& dataset) {
  const H5Handle space(H5Dget_space(dataset.id()), H5Sclose);
  std::vector<hsize_t> shape(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space.id())));
  H5Sget_simple_extent_dims(space.id(), shape.data(), nullptr);
  return shape;
}

/// Writes the file as the header says, with this data for each dataset.
void write_h5(const std::filesystem::path& path, std::span<const H5Dataset> datasets,
              const std::vector<std::vector<std::byte>>& data) {
  const H5Layout layout = lay_out_h5(datasets);
  const FileWriter file(path, ExitCode::checkpoint);
  for (const H5Layout::Part& part : layout.parts) file.write_exact(part.offset, part.bytes);
  for (std::size_t i = 0; i < data.size(); ++i) file.write_exact(layout.offsets[i], data[i]);
  EXPECT_EQ(std::filesystem::file_size(path), layout.file_bytes);
}

TEST(Hdf5, OffsetsLeadToTheBytesOfEveryType) {
  const ScratchFolder folder;
  const auto path = folder.path() / "a.h5";
  std::vector<H5Dataset> datasets;
  for (const ElementType type : kH5Types)
    datasets.push_back({"group/sub.group/" + std::string(element_name(type)), type, {3, 5, 7}});
  std::vector<std::vector<std::byte>> data;
  for (const H5Dataset& dataset : datasets) data.push_back(counting_bytes(dataset.bytes()));
  write_h5(path, datasets, data);

  const H5Handle file = open_file(path);
  for (std::size_t i = 0; i < kH5Types.size(); ++i) {
    const ElementTypeInfo& info = element_info(kH5Types[i]);
    const H5Handle dataset = open_dataset(file, datasets[i].name.c_str());
    ASSERT_TRUE(dataset.valid()) << info.name;
    std::vector<std::byte> read(105 * info.bytes);
    EXPECT_GE(
        H5Dread(dataset.id(), h5_type(info.type).id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, read.data()),
        0);
    EXPECT_EQ(read, data[i]) << info.name;
    EXPECT_EQ(shape_of(dataset), (std::vector<hsize_t>{3, 5, 7}));
    EXPECT_EQ(H5Dget_storage_size(dataset.id()), 105 * info.bytes);
    const H5Handle stored(H5Dget_type(dataset.id()), H5Tclose);
    EXPECT_GT(H5Tequal(stored.id(), h5_type(info.type).id()), 0) << info.name;
    EXPECT_EQ(H5Tget_size(stored.id()), info.bytes);
  }
}

TEST(Hdf5, OtherTypesAreRefused) {
  std::size_t held = 0;
  for (const ElementTypeInfo& info : kElementTypes) {
    const std::vector<H5Dataset> datasets = {{"a", info.type, {2}}};
    if (h5_holds(info.type)) {
      ++held;
      EXPECT_NO_THROW(lay_out_h5(datasets)) << info.name;
    } else {
      EXPECT_THROW(lay_out_h5(datasets), std::logic_error) << info.name;
    }
  }
  EXPECT_EQ(held, 8u);
}

TEST(Hdf5, SixteenBitFloatsMeanWhatTheySay) {
  const ScratchFolder folder;
  const auto path = folder.path() / "a.h5";
  const std::vector<std::uint16_t> bfloat16 = {0x3F80, 0xC000, 0x7F7F, 0x0080, 0x7F80, 0x0001};
  const std::vector<std::uint16_t> float16 = {0x3C00, 0xC000, 0x7BFF, 0x0400, 0x7C00, 0x0001};
  const auto copy = [](const std::vector<std::uint16_t>& words) {
    const std::span<const std::byte> bytes = std::as_bytes(std::span(words));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  const std::vector<H5Dataset> datasets = {{"b", ElementType::bfloat16, {6}},
                                           {"h", ElementType::float16, {6}}};
  write_h5(path, datasets, {copy(bfloat16), copy(float16)});

  const H5Handle file = open_file(path);
  std::vector<float> as_float(6);
  const auto read = [&](const char* name) {
    const H5Handle dataset = open_dataset(file, name);
    EXPECT_GE(
        H5Dread(dataset.id(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, as_float.data()), 0);
    return as_float;
  };
  std::vector<float> expected(6);
  for (std::size_t i = 0; i < 6; ++i) {
    const std::uint32_t bits = std::uint32_t{bfloat16[i]} << 16;
    std::memcpy(&expected[i], &bits, 4);
  }
  EXPECT_EQ(read("b"), expected);
  EXPECT_EQ(read("h"), (std::vector<float>{1.0f, -2.0f, 65504.0f, 0x1p-14f,
                                           std::numeric_limits<float>::infinity(), 0x1p-24f}));
}

TEST(Hdf5, ScalarsAndEmptyTensorsExist) {
  const ScratchFolder folder;
  const auto path = folder.path() / "a.h5";
  const std::vector<H5Dataset> datasets = {{"scalar", ElementType::int64, {}},
                                           {"empty", ElementType::float32, {4, 0, 2}}};
  write_h5(path, datasets, {counting_bytes(8), {}});

  const H5Handle file = open_file(path);
  EXPECT_EQ(shape_of(open_dataset(file, "scalar")), std::vector<hsize_t>{});
  EXPECT_EQ(shape_of(open_dataset(file, "empty")), (std::vector<hsize_t>{4, 0, 2}));
}

TEST(Hdf5, DataAndHdf5sOwnBytesFillTheFile) {
  std::vector<H5Dataset> datasets;
  for (std::int64_t i = 0; i < 300; ++i)
    datasets.push_back({fmt::format("model/block.{}/weight", i), ElementType::bfloat16, {i, 3000}});
  const H5Layout layout = lay_out_h5(datasets);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  std::uint64_t own_bytes = 0;
  for (const H5Layout::Part& part : layout.parts) {
    ranges.emplace_back(part.offset, part.offset + part.bytes.size());
    own_bytes += part.bytes.size();
  }
  for (std::size_t i = 1; i < datasets.size(); ++i)
    ranges.emplace_back(layout.offsets[i], layout.offsets[i] + datasets[i].bytes());
  std::ranges::sort(ranges);
  std::uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    EXPECT_EQ(begin, at);
    at = end;
  }
  EXPECT_EQ(at, layout.file_bytes);
  EXPECT_LT(own_bytes, datasets.size() * 2000);
  EXPECT_EQ(layout.offsets[0], 0u);  // [0, 3000] has no elements
}

TEST(Hdf5, TheLayoutOfATerabyteNeedsNoMemory) {
  const std::int64_t quarter = std::int64_t{1} << 38;
  const H5Layout layout = lay_out_h5(std::vector<H5Dataset>{
      {"a", ElementType::uint8, {quarter}}, {"b/c", ElementType::float64, {quarter / 8, 3}}});
  EXPECT_GE(layout.file_bytes, std::uint64_t{1} << 40);
  EXPECT_GE(layout.offsets[1], static_cast<std::uint64_t>(quarter));
  std::size_t own_bytes = 0;
  for (const H5Layout::Part& part : layout.parts) own_bytes += part.bytes.size();
  EXPECT_LT(own_bytes, 10'000u);
}

TEST(Hdf5, EqualDatasetsGiveEqualBytes) {
  std::vector<H5Dataset> datasets;
  for (std::int64_t i = 0; i < 30; ++i)
    datasets.push_back({fmt::format("model/block.{}/weight", i), ElementType::float32, {i, 3}});
  const H5Layout a = lay_out_h5(datasets);
  ::usleep(1'100'000);  // time stamps of HDF5 have a resolution of one second
  const H5Layout b = lay_out_h5(datasets);
  ASSERT_EQ(a.parts.size(), b.parts.size());
  for (std::size_t i = 0; i < a.parts.size(); ++i)
    EXPECT_TRUE(a.parts[i].bytes == b.parts[i].bytes);
}

TEST(Hdf5, ANameUsedTwiceIsAnError) {
  const std::vector<H5Dataset> twice(2, {"model/a", ElementType::uint8, {3}});
  try {
    lay_out_h5(twice);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_NE(std::string(error.what()).find("creating model/a failed"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace trestle::formats
