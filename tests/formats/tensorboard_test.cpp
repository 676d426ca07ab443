// TensorBoard's event files as bytes. What tensorboard's own reader makes of them is asked in
// tests/program/tensorboard_test.py.
#include "formats/tensorboard.h"

#include "base/error.h"
#include "base/files.h"
#include "formats/png.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

namespace trestle::formats {
namespace {

using testing::ScratchFolder;
using testing::SmallDisk;

std::string only_file(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename() != "ballast") files.push_back(entry.path());
  }
  EXPECT_EQ(files.size(), 1u);
  return files.empty() ? "" : files[0].string();
}

template <class T>
T value_at(const std::string& bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Bit by bit from the definition, with the mask of the record format.
std::uint32_t masked_checksum(std::string_view data) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char c : data) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/// The data of all records; a failed test where one is not whole.
std::vector<std::string> records_of(const std::string& file) {
  const std::string bytes = read_text_file(file, 1 << 24, ExitCode::data);
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto size = value_at<std::uint64_t>(bytes, at);
    EXPECT_EQ(value_at<std::uint32_t>(bytes, at + 8), masked_checksum(bytes.substr(at, 8)));
    if (at + 16 + size > bytes.size()) {
      ADD_FAILURE() << "the last record is not whole";
      break;
    }
    records.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(value_at<std::uint32_t>(bytes, at + 12 + size), masked_checksum(records.back()));
    at += 16 + size;
  }
  return records;
}

/// Every event begins with the time (field 1, eight bytes).
std::string without_time(const std::string& event) {
  EXPECT_EQ(event[0], 0x09);
  return event.substr(9);
}

TEST(Tensorboard, ChecksumsAreTheCastagnoliPolynomials) {
  // The check value of CRC-32C is that of "123456789": the reader above is right about it.
  const std::uint32_t masked = masked_checksum("123456789") - 0xA282EAD8u;
  EXPECT_EQ(masked >> 17 | masked << 15, 0xE3069283u);
}

TEST(Tensorboard, EventsAreEncodedFieldByField) {
  const ScratchFolder scratch;
  EventWriter writer(scratch.path(), 300);
  writer.scalars(300, {{"b", -2.0}, {"a", 0.5}});
  const auto events = records_of(only_file(scratch.path()));
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(without_time(events[0]), std::string("\x10\x00\x1a\x0d"
                                                 "brain.Event:2",
                                                 17));
  // step 300 as a varint, then SessionLog{status: START}
  EXPECT_EQ(without_time(events[1]), std::string("\x10\xac\x02\x3a\x02\x08\x01", 7));
  EXPECT_EQ(without_time(events[2]),
            std::string("\x10\xac\x02\x2a\x14"   // a summary of 20 bytes
                        "\x0a\x08\x0a\x01"       // a value of 8 bytes, its tag of 1
                        "a\x15\x00\x00\x00\x3f"  // 0.5
                        "\x0a\x08\x0a\x01"
                        "b\x15\x00\x00\x00\xc0",  // -2
                        25));
}

TEST(Tensorboard, APictureIsAPngWithItsSize) {
  const ScratchFolder scratch;
  const Picture picture{.width = 2, .height = 3, .rgb = std::vector<std::uint8_t>(18, 77)};
  EventWriter(scratch.path(), 1).picture(1, "samples", picture);
  const auto events = records_of(only_file(scratch.path()));
  const std::string& event = events.back();
  const std::size_t image =
      event.find("\x08\x03\x10\x02\x18\x03\x22");  // height, width, RGB, bytes
  ASSERT_NE(image, std::string::npos);
  const std::string png = event.substr(image + 8);  // its length takes one byte
  EXPECT_EQ(static_cast<std::uint8_t>(event[image + 7]), png.size());
  EXPECT_EQ(decode_png(std::as_bytes(std::span(png)), "event"), picture);
}

TEST(Tensorboard, TheFileIsNamedByTimeHostAndProcessAndIsEmptyUntilTheFirstEvent) {
  const ScratchFolder scratch;
  EventWriter writer(scratch.path(), 1);
  const std::string file = only_file(scratch.path());
  EXPECT_EQ(std::filesystem::file_size(file), 0u);
  const std::string name = std::filesystem::path(file).filename();
  EXPECT_EQ(name.rfind("events.out.tfevents.", 0), 0u) << name;
  EXPECT_EQ(name.find('.', 20), 30u) << name;  // ten digits of seconds sort as text until 2286
  EXPECT_TRUE(name.ends_with(fmt::format(".{:07}", ::getpid()))) << name;
}

TEST(Tensorboard, AFolderThatIsNotThereIsAnError) {
  const ScratchFolder scratch;
  try {
    EventWriter(scratch.path() / "nowhere", 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::environment);
  }
}

TEST(Tensorboard, AFullDiskLeavesWholeRecordsAndLaterOnesFollow) {
  SmallDisk disk(64 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  EventWriter writer(disk.path(), 1);
  writer.scalars(1, {{"loss", 1.0}});
  std::ofstream(disk.path() / "ballast") << std::string(disk.free_bytes() - 4096, 'x');

  Picture picture{.width = 64, .height = 64, .rgb = {}};  // noise, so that no PNG is small
  std::uint32_t noise = 1;
  for (int i = 0; i < 3 * 64 * 64; ++i) {
    noise = noise * 1664525u + 1013904223u;
    picture.rgb.push_back(static_cast<std::uint8_t>(noise >> 24));
  }
  EXPECT_THROW(writer.picture(2, "samples", picture), Error);
  EXPECT_EQ(records_of(only_file(disk.path())).size(), 3u);

  std::filesystem::remove(disk.path() / "ballast");
  writer.picture(3, "samples", picture);
  EXPECT_EQ(records_of(only_file(disk.path())).size(), 4u);
}

TEST(Tensorboard, ADiskThatIsFullFromTheStartLosesNoOpening) {
  SmallDisk disk(16 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  EventWriter writer(disk.path(), 7);
  std::ofstream(disk.path() / "ballast") << std::string(disk.free_bytes(), 'x');
  EXPECT_THROW(writer.scalars(7, {{"loss", 1.0}}), Error);
  std::filesystem::remove(disk.path() / "ballast");
  writer.scalars(8, {{"loss", 1.0}});
  const auto events = records_of(only_file(disk.path()));
  ASSERT_EQ(events.size(), 3u);
  EXPECT_NE(events[0].find("brain.Event:2"), std::string::npos);
}

}  // namespace
}  // namespace trestle::formats
