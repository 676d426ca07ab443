#include "base/files.h"

#include "base/digest.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <sys/stat.h>
#include <vector>

namespace trestle {
namespace {

using testing::ScratchFolder;
using testing::SmallDisk;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

template <class F>
std::string data_error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Files, ReadsAtOffsetsAndNeverShort) {
  const ScratchFolder folder;
  const auto path = folder.path() / "a";
  write_file_durable(path, "0123456789", ExitCode::data);
  const FileReader file(path, ExitCode::data);
  EXPECT_EQ(file.size_bytes(), 10u);
  std::string four(4, ' ');
  file.read_exact(6, std::as_writable_bytes(std::span(four)));
  EXPECT_EQ(four, "6789");
  for (const std::uint64_t offset : {std::uint64_t{7}, std::uint64_t{11}, ~std::uint64_t{0}}) {
    const std::string message =
        data_error_of([&] { file.read_exact(offset, std::as_writable_bytes(std::span(four))); });
    EXPECT_NE(message.find("ends too early"), std::string::npos) << message;
  }
  std::filesystem::resize_file(path, 8);
  const std::string message =
      data_error_of([&] { file.read_exact(6, std::as_writable_bytes(std::span(four))); });
  EXPECT_NE(message.find("truncated meanwhile"), std::string::npos) << message;
}

TEST(Files, ReadsIntoManyPlacesInOrder) {
  const ScratchFolder folder;
  std::string content(1000, ' ');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 26);
  write_file_durable(folder.path() / "a", content, ExitCode::data);
  const FileReader file(folder.path() / "a", ExitCode::data);
  file.will_read(0, 1000);
  // More than the system takes at once, with empty ones between them.
  std::string read(900, ' ');
  std::vector<std::span<std::byte>> places;
  std::span<std::byte> left = std::as_writable_bytes(std::span(read));
  for (std::size_t i = 0; !left.empty(); ++i) {
    const std::size_t take = std::min(left.size(), i % 5);
    places.push_back(left.first(take));
    left = left.subspan(take);
  }
  ASSERT_GT(places.size(), 400u);
  file.read_exact(50, places);
  EXPECT_EQ(read, content.substr(50, 900));
  EXPECT_NE(data_error_of([&] { file.read_exact(101, places); }).find("ends too early"),
            std::string::npos);
  file.read_exact(1000, std::span<const std::span<std::byte>>());  // nothing is nowhere
}

TEST(Files, ErrorsOfReadingSayTheSystemsReason) {
  const ScratchFolder folder;
  const auto reason_of = [&](const char* name) {
    try {
      const FileReader file(folder.path() / name, ExitCode::data);
      std::byte byte{};
      file.read_exact(0, std::span(&byte, 1));
    } catch (const FileError& error) {
      return error.reason();
    }
    return -1;
  };
  write_file_durable(folder.path() / "empty", "", ExitCode::data);
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  EXPECT_EQ(reason_of("missing"), ENOENT);
  EXPECT_EQ(reason_of("empty/below"), ENOTDIR);
  EXPECT_EQ(reason_of("loop"), ELOOP);
  EXPECT_EQ(reason_of("empty"), 0);
  EXPECT_EQ(reason_of("."), 0);
}

TEST(Files, OnlyRegularFilesAreOpened) {
  const ScratchFolder folder;
  ASSERT_EQ(::mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  const auto open = [&](const char* name) {
    return data_error_of([&] { FileReader(folder.path() / name, ExitCode::data); });
  };
  EXPECT_NE(open("pipe").find("not a regular file"), std::string::npos);
  EXPECT_NE(open("").find("not a regular file"), std::string::npos);
  EXPECT_NE(open("none").find("No such file or directory"), std::string::npos);
}

TEST(Files, TextHasALimit) {
  const ScratchFolder folder;
  write_file_durable(folder.path() / "a", "12345", ExitCode::data);
  EXPECT_EQ(read_text_file(folder.path() / "a", 5, ExitCode::data), "12345");
  EXPECT_NE(data_error_of([&] {
              read_text_file(folder.path() / "a", 4, ExitCode::data);
            }).find("at most 4"),
            std::string::npos);
}

TEST(Files, WritesAtOffsets) {
  const ScratchFolder folder;
  const FileWriter file(folder.path() / "a", ExitCode::data);
  file.write_exact(3, bytes("def"));
  file.write_exact(0, bytes("ab"));
  file.sync();
  EXPECT_EQ(read_text_file(folder.path() / "a", 100, ExitCode::data), std::string("ab\0def", 6));
}

TEST(Files, AnAtomicWriteReplacesOrLeavesTheOldFile) {
  const ScratchFolder folder;
  const auto path = folder.path() / "a";
  write_file_atomic(path, "old and long", ExitCode::data);
  write_file_atomic(path, "new", ExitCode::data);
  EXPECT_EQ(read_text_file(path, 100, ExitCode::data), "new");

  SmallDisk disk(std::size_t{64} << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  const auto small = disk.path() / "a";
  write_file_atomic(small, "old", ExitCode::data);
  const std::string message = data_error_of(
      [&] { write_file_atomic(small, std::string(std::size_t{1} << 20, 'x'), ExitCode::data); });
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_EQ(read_text_file(small, 100, ExitCode::data), "old");
  EXPECT_FALSE(std::filesystem::exists(disk.path() / "a.tmp"));
}

TEST(Digest, OfPartsIsThatOfTheWhole) {
  std::string text(100'000, ' ');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * i % 251);
  Digest64 digest;
  for (const std::size_t part : {1u, 7u, 64u, 1000u, 99'999u, 100'000u}) {
    for (std::size_t at = 0; at < text.size(); at += part)
      digest.add(bytes(text).subspan(at, std::min(part, text.size() - at)));
    EXPECT_EQ(digest.take(), digest_64(bytes(text))) << part;
  }
  EXPECT_EQ(digest.take(), digest_64({}));
}

TEST(Digest, PublishedAnswers) {
  EXPECT_EQ(digest_64({}), 0x2D06800538D394C2u);
  EXPECT_EQ(digest_128(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(digest_64(bytes("a")), digest_64(bytes("b")));
}

}  // namespace
}  // namespace trestle
