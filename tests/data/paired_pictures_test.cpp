// Folders of picture pairs: what they hold, and what is said of each thing that can be wrong.
#include "data/paired_pictures.h"

#include "data/scan.h"
#include "formats/element_type.h"
#include "formats/png.h"
#include "formats/safetensors.h"
#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <sys/stat.h>
#include <thread>

namespace trestle::data {
namespace {

using trestle::testing::get_file;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;

constexpr std::int64_t kChannels = 3;

formats::Picture plain(int width, int height, std::uint8_t value) {
  return {width, height, std::vector<std::uint8_t>(std::size_t(3) * width * height, value)};
}

std::string line(const std::string& source, const std::string& target,
                 const std::string& prompt = "a cat") {
  return fmt::format(R"({{"source": "{}", "target": "{}", "prompt": "{}"}})", source, target,
                     prompt) +
         "\n";
}

/// Four pairs of 8x8 pixels, in a folder.
class PairFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string list;
    for (int i = 0; i < 4; ++i) {
      formats::write_png(path(fmt::format("s{}.png", i)), plain(8, 8, std::uint8_t(10 * i)));
      formats::write_png(path(fmt::format("t{}.png", i)), plain(8, 8, std::uint8_t(100 + i)));
      list += line(fmt::format("s{}.png", i), fmt::format("t{}.png", i), i % 2 ? "dog" : "a cat");
    }
    put_file(path("pairs.jsonl"), list);
    write_prompts({{"a cat", {2, kChannels}}, {"dog", {1, kChannels}}});
  }

  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

  void write_prompts(const std::map<std::string, std::vector<std::int64_t>>& shapes) const {
    const std::vector<std::byte> bytes(1000);
    std::vector<formats::TensorToWrite> tensors;
    for (const auto& [name, shape] : shapes) {
      std::size_t size = sizeof(float);
      for (const auto side : shape) size *= static_cast<std::size_t>(side);
      tensors.push_back({name, formats::ElementType::float32, shape, std::span(bytes).first(size)});
    }
    formats::write_safetensors(path("prompts.safetensors"), tensors);
  }

  PairedPictures open() const {
    PairedPicturesOptions options;
    options.path = folder_.path().string();
    options.resolution = 8;
    return PairedPictures(options, "pairs.jsonl", kChannels);
  }
  std::string refusal_to_open() const {
    return refusal(ExitCode::data, [&] { open(); });
  }
  /// The message of the BadSample for this id; "" if there is none.
  std::string bad(SampleId id) const {
    try {
      open().load(std::span(&id, 1));
    } catch (const BadSample& sample) {
      EXPECT_EQ(sample.id(), id);
      return sample.what();
    }
    return "";
  }
  void expect_bad(SampleId id, std::initializer_list<std::string> words) const {
    const std::string message = bad(id);
    const std::string place = path("pairs.jsonl").string() + fmt::format(":{}: ", id + 1);
    EXPECT_TRUE(message.starts_with(place)) << message;
    for (const auto& each : words) EXPECT_NE(message.find(each), std::string::npos) << message;
  }

  ScratchFolder folder_;
};

TEST_F(PairFolder, ABatchHoldsWhatTheFilesHold) {
  const std::vector<SampleId> ids = {3, 0};
  const Batch batch = open().load(ids);
  EXPECT_EQ(batch.ids, ids);
  EXPECT_EQ(batch.tensor("source").sizes(), (std::vector<std::int64_t>{2, 3, 8, 8}));
  EXPECT_NEAR(batch.tensor("source")[0].max().item<double>(), 30 / 127.5 - 1, 1e-6);
  EXPECT_NEAR(batch.tensor("target")[1].min().item<double>(), 100 / 127.5 - 1, 1e-6);
  EXPECT_EQ(batch.tensor("text").sizes(), (std::vector<std::int64_t>{2, 2, kChannels}));
  EXPECT_TRUE(at::equal(batch.tensor("text_mask"), at::tensor({1, 0, 1, 1}).view({2, 2})));
  EXPECT_TRUE(batch.replaced.empty());
}

TEST_F(PairFolder, PicturesThatCannotBeUsedAreBadSamples) {
  EXPECT_EQ(bad(0), "");
  std::filesystem::remove(path("s0.png"));
  expect_bad(0, {"s0.png cannot be opened (No such file"});
  const std::string whole = get_file(path("t1.png"));
  put_file(path("t1.png"), std::string_view(whole).substr(0, whole.size() / 2));
  expect_bad(1, {"t1.png cannot be read as a PNG (", "Replace the file"});
  formats::write_png(path("s2.png"), plain(8, 9, 0));
  expect_bad(2, {"s2.png is 8x9 pixels and ", "t2.png is 8x8 (the pictures of a pair"});
  formats::write_png(path("t2.png"), plain(8, 9, 0));
  expect_bad(2, {"are 8x9 pixels (data.resolution = 8)", "set data.resolution"});
  std::filesystem::remove(path("s3.png"));
  ASSERT_EQ(::mkfifo(path("s3.png").c_str(), 0600), 0);
  expect_bad(3, {"s3.png cannot be read (not a regular file)"});
  std::filesystem::remove(path("s3.png"));
  std::filesystem::create_directory(path("s3.png"));
  expect_bad(3, {"not a regular file"});
}

TEST_F(PairFolder, AScanFindsAllBadSamplesAndKeepsTheFirst) {
  std::string list = get_file(path("pairs.jsonl"));
  for (int i = 4; i < 60; ++i) list += line(i % 2 ? "s1.png" : "none.png", "t1.png");
  put_file(path("pairs.jsonl"), list);
  const PairedPictures pairs = open();
  std::int64_t last = -1;
  const ScanReport report = scan(pairs, 3, 5, [&](std::int64_t done) { last = done; });
  EXPECT_EQ(last, 60);
  EXPECT_EQ(report.bad, 28);
  std::vector<SampleId> first;
  for (const auto& [id, reason] : report.first) {
    first.push_back(id);
    EXPECT_NE(reason.find(fmt::format("pairs.jsonl:{}: ", id + 1)), std::string::npos) << reason;
  }
  EXPECT_EQ(first, (std::vector<SampleId>{4, 6, 8, 10, 12}));
}

TEST(Scan, AnErrorThatIsNoBadSampleEndsIt) {
  class Broken : public Dataset {
   public:
    std::int64_t size() const override { return 2000; }
    Batch load(std::span<const SampleId> ids) const override {
      ++loads;
      if (ids[0] == 3) fail(ExitCode::environment, "the disk is gone");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return {};
    }
    mutable std::atomic<std::int64_t> loads = 0;
  };
  const Broken broken;
  EXPECT_EQ(refusal(ExitCode::environment, [&] { scan(broken, 2, 5, [](std::int64_t) {}); }),
            "the disk is gone");
  EXPECT_LT(broken.loads, 1000);
}

TEST_F(PairFolder, FoldersAndListsThatAreNotThereAreNamed) {
  PairedPicturesOptions options;
  const auto said = [&] {
    return refusal(ExitCode::data, [&] { PairedPictures(options, "pairs.jsonl", kChannels); });
  };
  EXPECT_NE(said().find("data.path is not set"), std::string::npos);
  options.path = path("nowhere").string();
  EXPECT_NE(said().find("nowhere\" is no folder"), std::string::npos);
  options.path = path("s0.png").string();
  EXPECT_NE(said().find("is no folder"), std::string::npos);
  std::filesystem::remove(path("pairs.jsonl"));
  EXPECT_NE(refusal_to_open().find("has no pairs.jsonl"), std::string::npos);
  std::filesystem::create_directory(path("pairs.jsonl"));
  EXPECT_NE(refusal_to_open().find("not a regular file"), std::string::npos);
}

TEST_F(PairFolder, LinesThatAreWrongAreNumbered) {
  const std::string good = line("s0.png", "t0.png");
  const auto said = [&](const std::string& third) {
    put_file(path("pairs.jsonl"), good + good + third + good);
    return refusal_to_open();
  };
  EXPECT_EQ(said(good), "");
  for (const char* third : {"{\"source\": \"s0.png\",\n", "[1]\n", "{}\n",
                            "{\"source\": 1, \"target\": \"t0.png\", \"prompt\": \"a cat\"}\n",
                            "{\"source\": \"s0.png\", \"prompt\": \"a cat\"}\n"}) {
    EXPECT_NE(said(third).find("pairs.jsonl:3 "), std::string::npos) << said(third);
  }
  put_file(path("pairs.jsonl"), "\n  \n");
  EXPECT_NE(refusal_to_open().find("lists no pairs"), std::string::npos);
}

TEST_F(PairFolder, PromptsWithoutAnEmbeddingAreNamed) {
  write_prompts({{"a cat", {2, kChannels}}});
  std::string said = refusal_to_open();
  EXPECT_NE(said.find("pairs.jsonl:2: prompt \"dog\" has no embedding"), std::string::npos) << said;
  write_prompts({{"a cat", {2, kChannels}}, {"dog", {1, kChannels + 1}}});
  said = refusal_to_open();
  EXPECT_NE(said.find("\"dog\" has dtype"), std::string::npos) << said;
  std::filesystem::remove(path("prompts.safetensors"));
  said = refusal_to_open();
  EXPECT_NE(said.find("prompts.safetensors cannot be opened"), std::string::npos) << said;
}

}  // namespace
}  // namespace trestle::data
