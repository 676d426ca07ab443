#include "formats/jsonl.h"

#include "base/error.h"
#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace trestle::formats {
namespace {

using trestle::testing::damaged;
using trestle::testing::get_file;
using trestle::testing::MemoryFile;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;
using trestle::testing::SmallDisk;

class Jsonl : public ::testing::Test {
 protected:
  /// "line:source" of each line.
  static std::vector<std::string> sources_in(const std::filesystem::path& path) {
    std::vector<std::string> result;
    for_each_json_line(path, [&](const JsonLine& line) {
      result.push_back(fmt::format("{}:{}", line.number(), required_string(line, "source")));
    });
    return result;
  }
  std::vector<std::string> sources(const std::string& bytes) {
    put_file(path_, bytes);
    return sources_in(path_);
  }
  void expect_refusal(const std::string& bytes, const std::string& line, const std::string& why) {
    const std::string message = refusal(ExitCode::data, [&] { sources(bytes); });
    EXPECT_NE(message.find("pairs.jsonl:" + line), std::string::npos) << bytes << "\n" << message;
    EXPECT_NE(message.find(why), std::string::npos) << bytes << "\n" << message;
  }

  ScratchFolder folder_;
  std::filesystem::path path_ = folder_.path() / "pairs.jsonl";
};

using Lines = std::vector<std::string>;

TEST_F(Jsonl, GivesEachObjectWithItsLineNumber) {
  EXPECT_EQ(sources("{\"source\": \"a.png\"}\n\n \t\r\n{\"more\": [1, {}], \"source\": \"é\\n\"}"),
            (Lines{"1:a.png", "4:é\n"}));
  EXPECT_EQ(sources("{\"source\": \"with CRLF\"}\r\n"), Lines{"1:with CRLF"});
  EXPECT_EQ(sources(""), Lines{});
  EXPECT_EQ(sources("\n\n"), Lines{});
}

TEST_F(Jsonl, MalformedLinesAreNamed) {
  const std::string good = "{\"source\": \"a\"}\n";
  expect_refusal(good + "{\"source\": \n", "2 is not a JSON object", "unexpected end of input");
  expect_refusal(good + "\n{\"source\": 'a'}\n", "3 is not a JSON object", "byte 12: ");
  expect_refusal("[1]\n", "1 is not a JSON object", "it is array, not an object");
  expect_refusal("{}{}\n", "1 is not a JSON object", "expected end of input");
  expect_refusal("{\"source\": \"\xff\"}\n", "1 is not a JSON object", "UTF-8");
  expect_refusal(std::string("{}\0{}\n", 6), "1 is not a JSON object", "NUL byte");
  expect_refusal("{\"a\": \"1\", \"a\": \"2\"}\n", "1 is not", R"(the key "a" appears twice)");
  expect_refusal("{\"a\": " + std::string(100'000, '[') + "\n", "1 is not", "deeper than 64");
  expect_refusal("{\"a\": 1e999}\n", "1 is not", "a number is too large");
  expect_refusal("{\"a\" 1}", "1 is not", R"(such as {"key": "value"}.)");
}

TEST_F(Jsonl, RequiredStringsAreNamedWhenTheyAreNot) {
  const std::string good = "{\"source\": \"a\"}\n";
  expect_refusal(good + "{\"target\": \"b\"}", "2 has no \"source\"", "Add \"source\"");
  expect_refusal(good + "{\"source\": 7}", "2 has a number for \"source\"", "must be a string");
  expect_refusal(good + "{\"source\": null}", "2 has a null for \"source\"", "must be a string");
}

TEST_F(Jsonl, FilesThatCannotBeReadAreNamed) {
  const auto visit = [](const JsonLine&) {};
  EXPECT_NE(refusal(ExitCode::data, [&] { for_each_json_line(folder_.path() / "no.jsonl", visit); })
                .find("no.jsonl"),
            std::string::npos);
  EXPECT_NE(refusal(ExitCode::data, [&] { for_each_json_line(folder_.path(), visit); })
                .find("not a regular file"),
            std::string::npos);
}

TEST_F(Jsonl, DamageEndsInAnErrorOrInLines) {
  const std::string bytes =
      "{\"source\": \"a.png\", \"n\": [1, -2.5e3, true]}\n{\"source\": \"b\\u00e9.png\"}\n";
  MemoryFile memory;
  int whole = 0;
  for (std::uint32_t seed = 0; seed < 4000; ++seed) {
    memory.put(damaged(bytes, seed));
    try {
      sources_in(memory.path());
      ++whole;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find(memory.path().string() + ":"), std::string::npos);
    }
  }
  EXPECT_GT(whole, 100);
  EXPECT_LT(whole, 3000);
}

TEST_F(Jsonl, WriterAppendsWholeLinesAtOnce) {
  JsonlWriter writer(path_);
  EXPECT_EQ(get_file(path_), "");
  writer.append({{"step", 12}, {"loss", 0.1}, {"name", "a\"b\né"}, {"done", true}});
  const std::string first = "{\"step\":12,\"loss\":0.1,\"name\":\"a\\\"b\\né\",\"done\":true}\n";
  EXPECT_EQ(get_file(path_), first);  // while the writer is open
  const std::vector<JsonField> fields = {
      {"big", std::numeric_limits<std::int64_t>::min()}, {"nan", std::nan("")}, {"bytes", "\xff"}};
  writer.append(fields);
  EXPECT_EQ(get_file(path_),
            first + "{\"big\":-9223372036854775808,\"nan\":null,\"bytes\":\"\uFFFD\"}\n");
}

TEST_F(Jsonl, WriterGoesOnWhereAnotherStopped) {
  const std::string long_line = "{\"a\":\"" + std::string(9000, 'x') + "\"}\n";
  const std::vector<std::pair<std::string, std::string>> kept_of = {
      {"", ""},
      {"{\"a\":1}\n", "{\"a\":1}\n"},
      {"{\"a\":1}\n{\"a\"", "{\"a\":1}\n"},
      {"{\"a\"", ""},
      {long_line, long_line},
      {long_line + std::string(9000, 'y'), long_line},
      {std::string(9000, 'y'), ""}};
  for (const auto& [before, kept] : kept_of) {
    put_file(path_, before);
    JsonlWriter(path_).append({{"b", 2}});
    EXPECT_EQ(get_file(path_), kept + "{\"b\":2}\n");
  }
}

TEST_F(Jsonl, AFullDiskLeavesWholeLines) {
  SmallDisk disk(64 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  const auto path = disk.path() / "metrics.jsonl";
  JsonlWriter writer(path);
  const std::string text(1000, 'x');
  std::string message;
  for (int i = 0; i < 200 && message.empty(); ++i) {
    message = refusal(ExitCode::environment, [&] { writer.append({{"text", text}}); });
  }
  EXPECT_NE(message.find("metrics.jsonl could not be written (No space left on device)"),
            std::string::npos)
      << message;
  int lines = 0;
  for_each_json_line(path, [&](const JsonLine&) { ++lines; });
  EXPECT_GT(lines, 40);
  EXPECT_EQ(get_file(path).back(), '\n');
}

TEST_F(Jsonl, WriterSaysWhatItCannotOpen) {
  const auto open = [&](const std::filesystem::path& path) {
    return refusal(ExitCode::environment, [&] { JsonlWriter writer(path); });
  };
  EXPECT_NE(open(folder_.path() / "none" / "a.jsonl").find("No such file or directory"),
            std::string::npos);
  EXPECT_NE(open(folder_.path()).find("not a regular file"), std::string::npos);
}

}  // namespace
}  // namespace trestle::formats
