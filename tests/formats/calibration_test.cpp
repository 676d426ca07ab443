// Calibrations: what is written is read again, and what cannot be one is refused by name.
#include "formats/calibration.h"

#include "base/error.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

Calibration example() {
  return {.world = 3,
          .hosts = {{.name = "a", .ranks = 2}, {.name = "b", .ranks = 1}},
          .levels = 2,
          .computing_lost = 0.125,
          .operations = {{"all_gather",
                          {{.latency_s = 1e-5, .bytes_per_s = 2e9},
                           {{.bytes = 1024, .median_s = 1.1e-5}},
                           Calibration::Cost{.latency_s = 2e-5, .bytes_per_s = 1e9}}}},
          .compute = Calibration::Compute{.task = "sana_bridge",
                                          .parameters = 1000,
                                          .micro_batch = 4,
                                          .checkpoint_every = 2,
                                          .sample_bytes = 6144,
                                          .forward_s_per_sample = 0.25,
                                          .backward_s_per_sample = 0.5,
                                          .optimizer_s_per_element = 1e-9}};
}

std::string refusal(const std::string& text) {
  try {
    parse_calibration(text, "it.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "";
}

/// The example with one place changed.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = to_text(example());
  const auto at = text.find(from);
  EXPECT_NE(at, text.npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Calibration, ReadsWhatItWrote) {
  const std::string text = to_text(example());
  const Calibration read = parse_calibration(text, "it.json");
  EXPECT_EQ(to_text(read), text);
  EXPECT_EQ(read.world, 3);
  EXPECT_EQ(read.hosts[1].name, "b");
  EXPECT_EQ(read.compute->micro_batch, 4);
  EXPECT_EQ(read.operations.at("all_gather").points[0].bytes, 1024);
  EXPECT_DOUBLE_EQ(read.operations.at("all_gather").seconds(2e9), 1 + 1e-5);
  EXPECT_DOUBLE_EQ(read.operations.at("all_gather").slow->seconds(2e9), 2 + 2e-5);
  EXPECT_EQ(read.levels, 2);
  EXPECT_EQ(read.computing_lost, 0.125);
  EXPECT_NE(refusal(changed("0.125", "1.0")).find("computing_lost"), std::string::npos);
}

TEST(Calibration, OfOneLevelWhereItDoesNotSay) {
  EXPECT_EQ(parse_calibration(changed("\"levels\": 2,", ""), "it.json").levels, 1);
  EXPECT_NE(refusal(changed("\"levels\": 2", "\"levels\": 3")).find("neither 1 nor 2"),
            std::string::npos);
  EXPECT_NE(refusal(changed("\"slow\": {", "\"slow\": 3, \"x\": {")).find("slow"),
            std::string::npos);
}

TEST(Calibration, ComputeTimesAreOptional) {
  Calibration without = example();
  without.compute.reset();
  EXPECT_FALSE(parse_calibration(to_text(without), "it.json").compute.has_value());
}

TEST(Calibration, SaysWhatIsWrong) {
  const struct {
    std::string from, to, says;
  } cases[] = {
      {"trestle calibration", "trestle bench comm", "its format is \"trestle bench comm\""},
      {"\"version\": 1", "\"version\": 2", "version 2"},
      {"\"world\": 3", "\"world\": 0", "\"world\" is not a whole number of at least 1"},
      {"\"world\": 3", "\"planet\": 3", "\"world\" is missing"},
      {"\"ranks\": 2", "\"ranks\": -2", "\"ranks\" is not a whole number"},
      {"\"bytes_per_s\": 2000000000.0", "\"bytes_per_s\": 0", "\"bytes_per_s\" is not a number"},
      {"\"latency_s\": 1e-05", "\"latency_s\": -1", "\"latency_s\" is not a number of at least 0"},
      {"\"forward_s_per_sample\": 0.25", "\"forward_s_per_sample\": \"fast\"",
       "\"forward_s_per_sample\" is not a number"},
      {"\"bytes\": 1024", "\"bytes\": 1e999", "too large"},
  };
  for (const auto& [from, to, says] : cases) {
    const std::string said = refusal(changed(from, to));
    EXPECT_NE(said.find(says), said.npos) << said;
    EXPECT_NE(said.find("it.json is no calibration"), said.npos) << said;
    EXPECT_NE(said.find("trestle bench comm --save"), said.npos) << said;
  }
  EXPECT_NE(refusal("").find("it.json"), std::string::npos);
  EXPECT_NE(refusal("[1]").find("not an object"), std::string::npos);
}

}  // namespace
}  // namespace trestle::formats
