// Zip files put together by hand; that torch's own are read is for the oracle
// (tests/oracle/weights_oracle.py).
#include "formats/zip_directory.h"

#include "formats/file_problem.h"
#include "tests/formats/hostile.h"
#include "tests/formats/torch_files.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

using namespace trestle::testing;

class ZipDirectory : public ::testing::Test {
 protected:
  std::vector<ZipEntry> entries(const std::string& bytes) {
    file_.put(bytes);
    return read_zip_directory(FileReader(file_.path(), ExitCode::data));
  }
  void expect_refusal(const std::string& bytes, const std::string& why) {
    std::string message;
    try {
      entries(bytes);
    } catch (const FileProblem& problem) {
      message = problem.what();
    }
    EXPECT_NE(message.find(why), message.npos) << why << "\n" << message;
  }

  MemoryFile file_;
};

const std::vector<ZipPart> kTwo = {{.name = "a/one", .data = "first"}, {.name = "b", .data = ""}};

/// A copy with other bytes at a place, counted from the end if negative.
std::string changed(std::string bytes, std::ptrdiff_t at, const std::string& to) {
  const auto place = at < 0 ? bytes.size() - static_cast<std::size_t>(-at) : std::size_t(at);
  return bytes.replace(place, to.size(), to);
}

TEST_F(ZipDirectory, SaysWhereTheDataLies) {
  for (const ZipEnd end : {ZipEnd::plain, ZipEnd::zip64}) {
    const std::string bytes = zip_of(kTwo, end);
    const auto found = entries(bytes);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].name, "a/one");
    EXPECT_EQ(bytes.substr(found[0].begin_bytes, found[0].size_bytes), "first");
    EXPECT_EQ(found[1].size_bytes, 0U);
  }
  EXPECT_TRUE(entries(zip_of({})).empty());
}

TEST_F(ZipDirectory, FilesThatAreCutOrGoOnAreRefused) {
  expect_refusal("", "it has only 0 bytes");
  for (const ZipEnd end : {ZipEnd::plain, ZipEnd::zip64}) {
    const std::string bytes = zip_of(kTwo, end);
    for (std::size_t size = 22; size < bytes.size(); ++size) {
      expect_refusal(bytes.substr(0, size), "");
      expect_refusal(bytes.substr(0, size), "does not end as a zip file does");
    }
    expect_refusal(bytes + "x", "does not end as a zip file does");
  }
}

TEST_F(ZipDirectory, CompressedAndEncryptedEntriesAreRefusedByName) {
  expect_refusal(zip_of({{.name = "a", .data = "x", .method = 8}}),
                 R"(entry "a" is compressed (method 8))");
  expect_refusal(zip_of({{.name = "a", .data = "x", .flags = 1}}), R"(entry "a" is encrypted)");
}

TEST_F(ZipDirectory, EntriesLieWithinTheFileApartFromEachOther) {
  const std::string bytes = zip_of({{.name = "a", .data = "0123"}, {.name = "b", .data = "4567"}});
  constexpr std::ptrdiff_t kEnd = 22, kEntry = 47, kSizes = 20, kPlace = 42;
  const std::ptrdiff_t first = -(kEnd + 2 * kEntry), second = first + kEntry;
  EXPECT_EQ(entries(bytes).size(), 2U);
  expect_refusal(changed(bytes, second + kPlace, u32(0)), "another local header");
  expect_refusal(changed(bytes, second + kPlace, u32(1'000'000)), R"("b" lies outside)");
  expect_refusal(changed(bytes, second + kSizes, u32(5) + u32(5)), R"("b" lies outside)");
  expect_refusal(changed(bytes, first + kSizes, u32(5) + u32(5)), R"("b" overlaps entry "a")");
  expect_refusal(changed(bytes, first + kSizes, u32(3)), "has 3 bytes of 4");
  expect_refusal(zip_of({{.name = "a", .data = ""}, {.name = "a", .data = ""}}),
                 R"(two entries are named "a")");
  expect_refusal(zip_of({{.name = "a", .data = "", .local_name = "b"}}), "another local header");
}

TEST_F(ZipDirectory, TheDirectoryIsWhole) {
  const std::string bytes = zip_of(kTwo);
  expect_refusal(changed(bytes, -12, u16(1)), "several disks");
  expect_refusal(changed(bytes, -14, u16(3) + u16(3)), "its directory ends too early");
  expect_refusal(changed(bytes, -14, u16(1) + u16(1)), "goes on after the last entry");
  expect_refusal(changed(bytes, -6, u32(0)), "does not end at its end record");
  expect_refusal(changed(bytes, -(22 + 47 + 51), "XXXX"), "its directory is garbled");
  const std::string wide = zip_of(kTwo, ZipEnd::zip64);
  const std::ptrdiff_t locator = -(22 + 20), record = locator - 56;
  expect_refusal(changed(wide, locator + 8, u64(~0ULL)), "where none fits");
  expect_refusal(changed(wide, locator + 8, u64(3)), "is no ZIP64 end record");
  expect_refusal(changed(wide, record + 24, u64(~0ULL) + u64(~0ULL)), "ends too early");
  expect_refusal(changed(wide, record + 40, u64(~0ULL)), "does not end at its end record");
  std::string shortened = wide;
  const auto field = shortened.rfind(u16(1) + u16(24));
  expect_refusal(shortened.replace(field + 2, 2, u16(8)), "its ZIP64 field is short");
}

}  // namespace
}  // namespace trestle::formats
