// Safetensors in and out. Files are put together by hand here; that the Python library writes the
// same bytes was where the expected ones came from.
#include "formats/safetensors.h"

#include "base/error.h"
#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <cstring>

namespace trestle::formats {
namespace {

using trestle::testing::damaged;
using trestle::testing::get_file;
using trestle::testing::MemoryFile;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;
using trestle::testing::SmallDisk;

std::string length_prefix(std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

std::string make_file(const std::string& header, const std::string& data) {
  return length_prefix(header.size()) + header + data;
}

std::string braced(const std::string& entries) { return fmt::format("{{{}}}", entries); }

/// `"a":{...}` as it stands in a header.
std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

class Safetensors : public ::testing::Test {
 protected:
  SafetensorsFile open(const std::string& bytes) {
    put_file(path_, bytes);
    return SafetensorsFile::open(path_);
  }
  std::string refusal_of(const std::string& bytes) {
    return refusal(ExitCode::data, [&] { open(bytes); });
  }
  void expect_refusal(const std::string& header, const std::string& data, const std::string& why) {
    const std::string message = refusal_of(make_file(header, data));
    EXPECT_NE(message.find("weights.safetensors is not a whole safetensors file ("),
              std::string::npos)
        << header << "\n"
        << message;
    EXPECT_NE(message.find(why), std::string::npos) << header << "\n" << message;
  }
  static std::string bytes_of(const SafetensorsFile& file, const std::string& name) {
    const TensorEntry* entry = file.find(name);
    if (entry == nullptr) return "no such tensor";
    std::string bytes(entry->size_bytes(), '?');
    file.read(*entry, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }

  ScratchFolder folder_;
  std::filesystem::path path_ = folder_.path() / "weights.safetensors";
};

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST_F(Safetensors, EntriesComeInFileOrderWithTheirBytes) {
  const std::string header =
      braced(tensor("z", "F32", "[2]", "[0,8]") + "," + tensor("a", "BF16", "[3,1]", "[9,15]") +
             "," + R"("__metadata__":{"format":"pt","note":"é"},)" +
             tensor("flag", "BOOL", "[]", "[8,9]") + "," +
             tensor("empty", "I64", "[0,5]", "[15,15]")) +
      " ";
  const SafetensorsFile file = open(make_file(header, "01234567+abcdef"));
  std::vector<std::string> names;
  for (const TensorEntry& entry : file.entries()) names.push_back(entry.name);
  EXPECT_EQ(names, (std::vector<std::string>{"z", "flag", "a", "empty"}));
  EXPECT_EQ(bytes_of(file, "z"), "01234567");
  EXPECT_EQ(bytes_of(file, "flag"), "+");
  EXPECT_EQ(bytes_of(file, "a"), "abcdef");
  EXPECT_EQ(bytes_of(file, "empty"), "");
  EXPECT_EQ(file.find("b"), nullptr);
  EXPECT_EQ(file.find("a")->dtype, ElementType::bfloat16);
  EXPECT_EQ(file.find("a")->shape, (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(file.find("flag")->shape, std::vector<std::int64_t>{});
  EXPECT_EQ(file.find("z")->begin_bytes, 8 + header.size());
  EXPECT_EQ(file.find("empty")->end_bytes, 8 + header.size() + 15);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"note", "é"}}));
}

TEST_F(Safetensors, WritesTheBytesThatThePythonLibraryWrites) {
  const std::vector<TensorToWrite> tensors = {
      {"b", ElementType::uint8, {3}, as_bytes("xyz")},
      {"w\"2\n", ElementType::float32, {1, 2}, as_bytes("abcdefgh")},
      {"é", ElementType::bfloat16, {}, as_bytes("..")},
      {"a", ElementType::uint8, {0, 7}, {}},
      {"n", ElementType::int64, {1}, as_bytes("12345678")},
      {"w", ElementType::float32, {1}, as_bytes("ABCD")}};
  write_safetensors(path_, tensors, {{"format", "pt"}});
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                             R"("w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
                             R"("w\"2\n":{"dtype":"F32","shape":[1,2],"data_offsets":[12,20]},)"
                             R"("é":{"dtype":"BF16","shape":[],"data_offsets":[20,22]},)"
                             R"("a":{"dtype":"U8","shape":[0,7],"data_offsets":[22,22]},)"
                             R"("b":{"dtype":"U8","shape":[3],"data_offsets":[22,25]}})";
  const std::string padding((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(get_file(path_), make_file(header + padding, "12345678ABCDabcdefgh..xyz"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);

  const SafetensorsFile file = SafetensorsFile::open(path_);
  for (const TensorToWrite& tensor : tensors) {
    ASSERT_NE(file.find(tensor.name), nullptr) << tensor.name;
    EXPECT_EQ(file.find(tensor.name)->dtype, tensor.dtype);
    EXPECT_EQ(file.find(tensor.name)->shape, tensor.shape);
  }
}

TEST_F(Safetensors, EveryDtypeKeepsItsNameAndSize) {
  const std::map<std::string, std::size_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
      {"F32", 4},  {"C64", 8}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  EXPECT_EQ(sizes.size(), kElementTypes.size());
  for (const auto& [name, size] : sizes) {
    const std::string data(3 * size, '.');
    const auto offsets = fmt::format("[0,{}]", data.size());
    const SafetensorsFile file = open(make_file(braced(tensor("t", name, "[3]", offsets)), data));
    const ElementType dtype = file.entries().at(0).dtype;
    EXPECT_EQ(safetensors_name(dtype), name);
    EXPECT_EQ(element_bytes(dtype), size);
    EXPECT_EQ(element_type_named(element_name(dtype)), dtype);
  }
}

TEST_F(Safetensors, FilesWithoutTensorsAreFiles) {
  EXPECT_TRUE(open(make_file("{}", "")).entries().empty());
  write_safetensors(path_, {});
  EXPECT_EQ(get_file(path_), make_file("{}      ", ""));
}

TEST_F(Safetensors, HostileLengthsAreRefused) {
  EXPECT_NE(refusal_of("").find("it has only 0 bytes"), std::string::npos);
  EXPECT_NE(refusal_of("1234567").find("it has only 7 bytes"), std::string::npos);
  EXPECT_NE(refusal_of(length_prefix(3) + "{}").find("header of 3 bytes, but only 2 follow"),
            std::string::npos);
  EXPECT_NE(refusal_of(length_prefix(100'000'001) + "{}").find("100000000 are the most"),
            std::string::npos);
  EXPECT_NE(refusal_of(length_prefix(~0ULL) + "{}").find("100000000 are the most"),
            std::string::npos);
  EXPECT_NE(refusal(ExitCode::data, [&] { SafetensorsFile::open(folder_.path() / "none"); }), "");
  EXPECT_NE(refusal(ExitCode::data, [&] { SafetensorsFile::open(folder_.path()); }), "");
}

TEST_F(Safetensors, HeadersThatAreNotPlainJsonAreRefused) {
  expect_refusal("", "", "does not begin with {");
  expect_refusal(" {}", "", "does not begin with {");
  expect_refusal("[]", "", "does not begin with {");
  expect_refusal("{", "", "unexpected end of input");
  expect_refusal("{}{}", "", "expected end of input");
  expect_refusal(std::string("{}\0\0", 4), "", "NUL byte");
  expect_refusal("{\"\xff\":1}", "", "ill-formed UTF-8 byte; last read: '\"\uFFFD'");
  expect_refusal(R"({"a":1e999})", "", "a number is too large");
  expect_refusal(R"({"a":)" + std::string(100'000, '['), "", "nests deeper than 3 levels");
  expect_refusal(
      braced(tensor("a", "U8", "[1]", "[0,1]") + "," + tensor("a", "U8", "[1]", "[1,2]")), "..",
      R"(the key "a" appears twice)");
  expect_refusal(R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", ".",
                 R"(the key "shape" appears twice)");
}

TEST_F(Safetensors, MetadataHoldsOnlyStrings) {
  expect_refusal(R"({"__metadata__":null})", "", "__metadata__ is not an object");
  expect_refusal(R"({"__metadata__":{"rank":4}})", "", R"(number for "rank")");
  expect_refusal(R"({"__metadata__":{"a":"1","a":"2"}})", "", R"(the key "a" appears twice)");
}

TEST_F(Safetensors, TensorsThatDoNotAddUpAreNamed) {
  const auto expect = [&](const std::string& entries, const std::string& data,
                          const std::string& why) { expect_refusal(braced(entries), data, why); };
  const std::string eight = "01234567";
  expect(R"("t":[1])", "", R"(tensor "t": it is not an object of exactly)");
  expect(R"("t":{"dtype":"U8","shape":[1]})", ".", "it is not an object of exactly");
  expect(R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1})", ".",
         "it is not an object of exactly");
  expect(tensor("t", "F4", "[2]", "[0,1]"), ".", R"(its dtype "F4" is not known)");
  expect(R"("t":{"dtype":5,"shape":[1],"data_offsets":[0,1]})", ".", "dtype is not a string");
  expect(tensor("t", "U8", "8", "[0,8]"), eight, "its shape is not a list");
  std::string ones = "[1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  expect(tensor("t", "U8", ones + "]", "[0,1]"), ".", "has 65 dimensions, and 64 are the most");
  expect(tensor("t", "U8", "[-8]", "[0,8]"), eight, "its shape holds something other");
  expect(tensor("t", "U8", "[8.0]", "[0,8]"), eight, "its shape holds something other");
  expect(tensor("t", "U8", "[9223372036854775808]", "[0,8]"), eight, "its shape holds something");
  expect(tensor("t", "U8", "[4294967296,4294967296]", "[0,8]"), eight, "overflows");
  expect(tensor("t", "I64", "[2305843009213693953]", "[0,8]"), eight, "overflows");
  expect(tensor("t", "U8", "[8]", "8"), eight, "its data_offsets are not two numbers");
  expect(tensor("t", "U8", "[8]", "[0]"), eight, "its data_offsets are not two numbers");
  expect(tensor("t", "U8", "[8]", "[0,4,8]"), eight, "its data_offsets are not two numbers");
  expect(tensor("t", "U8", "[8]", "[\"0\",8]"), eight, "its data_offsets holds something other");
  expect(tensor("t", "U8", "[8]", "[8,0]"), eight, "8..0 do not lie within");
  expect(tensor("t", "U8", "[9]", "[0,9]"), eight, "0..9 do not lie within the file's 8");
  expect(tensor("t", "F32", "[1]", "[0,8]"), eight, "F32 [1] takes 4 bytes");
  expect(tensor("t", "U8", "[7]", "[1,8]"), eight, R"("t": 1 bytes before it belong to no)");
  expect(tensor("t", "U8", "[7]", "[0,7]"), eight, "its last 1 bytes belong to no tensor");
  expect(tensor("a", "U8", "[5]", "[0,5]") + "," + tensor("t", "U8", "[4]", "[4,8]"), eight,
         R"(tensor "t": it overlaps)");
  expect(tensor("a", "U8", "[8]", "[0,8]") + "," + tensor("t", "U8", "[8]", "[0,8]"), eight,
         R"(tensor "t": it overlaps)");
  expect(tensor("a", "U8", "[8]", "[0,8]") + "," + tensor("t", "U8", "[0]", "[4,4]"), eight,
         R"(tensor "t": it overlaps)");
}

TEST_F(Safetensors, HostileNamesAreHarmlessInMessages) {
  const std::string escape = R"(\u001b[2J)";
  expect_refusal(braced(tensor(escape, "U8", "[1]", "[0,2]")), "..", R"(tensor "\u001b[2J")");
  const std::string message =
      refusal_of(make_file(braced(tensor(std::string(5000, 'n'), "U8", "[1]", "[0,2]")), ".."));
  EXPECT_NE(message.find("nnn...\""), std::string::npos);
  EXPECT_LT(message.size(), 600U);
}

TEST_F(Safetensors, AFileThatShrinksWhileOpenIsAnError) {
  const std::string bytes = make_file(braced(tensor("t", "U8", "[8]", "[0,8]")), "01234567");
  const SafetensorsFile file = open(bytes);
  std::filesystem::resize_file(path_, bytes.size() - 1);
  const std::string message = refusal(ExitCode::data, [&] { bytes_of(file, "t"); });
  EXPECT_NE(message.find("weights.safetensors could not be read"), std::string::npos) << message;
}

TEST_F(Safetensors, AFullDiskLeavesTheOldFile) {
  SmallDisk disk(64 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  const auto path = disk.path() / "lora.safetensors";
  write_safetensors(path,
                    std::vector<TensorToWrite>{{"t", ElementType::uint8, {3}, as_bytes("old")}});
  const std::string before = get_file(path);
  const std::string large(100'000, '.');
  const std::string message = refusal(ExitCode::environment, [&] {
    write_safetensors(
        path, std::vector<TensorToWrite>{{"t", ElementType::uint8, {100'000}, as_bytes(large)}});
  });
  EXPECT_NE(message.find("lora.safetensors could not be written (No space left on device)"),
            std::string::npos)
      << message;
  EXPECT_EQ(get_file(path), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(disk.path()), {}), 1);
}

TEST_F(Safetensors, WhatCannotBeWrittenIsSaid) {
  const std::vector<TensorToWrite> good = {{"t", ElementType::uint8, {1}, as_bytes(".")}};
  EXPECT_NE(refusal(ExitCode::environment,
                    [&] { write_safetensors(folder_.path() / "none" / "a.safetensors", good); })
                .find("No such file or directory"),
            std::string::npos);
  EXPECT_NE(refusal(ExitCode::data,
                    [&] {
                      write_safetensors(path_, good, {{"a", "\xff"}});
                    })
                .find("not UTF-8"),
            std::string::npos);
  using Wrong = std::vector<TensorToWrite>;
  EXPECT_THROW(write_safetensors(path_, Wrong{{"t", ElementType::uint8, {2}, as_bytes(".")}}),
               std::logic_error);
  EXPECT_THROW(write_safetensors(path_, Wrong{{"t", ElementType::uint8, {-1}, as_bytes(".")}}),
               std::logic_error);
  EXPECT_THROW(write_safetensors(path_, Wrong{good[0], good[0]}), std::logic_error);
  EXPECT_THROW(
      write_safetensors(path_, Wrong{{"__metadata__", ElementType::uint8, {1}, as_bytes(".")}}),
      std::logic_error);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(Safetensors, EveryTruncationIsNoticed) {
  write_safetensors(path_,
                    std::vector<TensorToWrite>{{"a", ElementType::uint8, {3}, as_bytes("abc")},
                                               {"b", ElementType::float32, {1}, as_bytes("1234")}});
  const std::string bytes = get_file(path_);
  MemoryFile cut;
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    cut.put(bytes.substr(0, size));
    EXPECT_NE(refusal(ExitCode::data, [&] { SafetensorsFile::open(cut.path()); }), "") << size;
  }
  EXPECT_NE(refusal_of(bytes + "."), "");
}

TEST_F(Safetensors, DamageEndsInAnErrorOrAWholeFile) {
  const std::string header =
      braced(tensor("a", "F32", "[2,1]", "[0,8]") + "," + R"("__metadata__":{"format":"pt"},)" +
             tensor("b", "BOOL", "[]", "[8,9]") + "," + tensor("c", "I64", "[0]", "[9,9]"));
  MemoryFile memory;
  int whole = 0;
  for (std::uint32_t seed = 0; seed < 5000; ++seed) {
    // Half of the damage is done to the header alone, so that lengths agree and it is parsed.
    const std::string bytes = seed % 2 == 0 ? make_file(damaged(header, seed), "012345678")
                                            : damaged(make_file(header, "012345678"), seed);
    memory.put(bytes);
    try {
      const SafetensorsFile file = SafetensorsFile::open(memory.path());
      std::uint64_t data_bytes = 0;
      for (const TensorEntry& entry : file.entries()) {
        data_bytes += bytes_of(file, entry.name).size();
      }
      std::uint64_t header_bytes = 0;
      std::memcpy(&header_bytes, bytes.data(), 8);
      EXPECT_EQ(8 + header_bytes + data_bytes, bytes.size());
      ++whole;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
    }
  }
  EXPECT_GT(whole, 20);  // names and data may be others
  EXPECT_LT(whole, 2500);
}

}  // namespace
}  // namespace trestle::formats
