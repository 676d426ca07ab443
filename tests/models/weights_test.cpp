// Weights of every kind of file into memory of every kind. Files of other libraries are for the
// oracle (tests/oracle/weights_oracle.py).
#include "base/error.h"
#include "base/log.h"
#include "base/torch/tensor_memory.h"
#include "models/weights/safetensors_io.h"
#include "tests/formats/hostile.h"
#include "tests/formats/torch_files.h"
#include "tests/support/scratch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace trestle::models::weights {
namespace {

namespace fs = std::filesystem;
using nn::NamedParameter;
using trestle::testing::get_file;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;

at::Tensor numbers(at::IntArrayRef shape, at::ScalarType dtype, std::int64_t begin = 0) {
  const std::int64_t count =
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  return at::arange(begin, begin + count).remainder(251).to(dtype).view(shape);
}

/// Names and tensors like these, of NaN: what is not loaded is seen.
std::vector<NamedParameter> unfilled(const std::vector<NamedParameter>& like,
                                     at::ScalarType dtype) {
  std::vector<NamedParameter> result;
  for (const auto& [name, tensor] : like)
    result.push_back({name, at::full(tensor.sizes(), NAN, dtype)});
  return result;
}

void expect_equal(const std::vector<NamedParameter>& got, const std::vector<NamedParameter>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(at::equal(got[i].tensor, want[i].tensor.to(got[i].tensor.scalar_type())))
        << got[i].name;
  }
}

class Weights : public ::testing::Test {
 protected:
  ScratchFolder folder_;
  fs::path file_ = folder_.path() / "model.safetensors";
};

TEST_F(Weights, ShardsGoStraightIntoAFlatBuffer) {
  // One is larger than a piece, one is empty, and their places are not in the order of the file.
  const std::vector<NamedParameter> stored = {{"b", numbers({3'000'000, 3}, at::kBFloat16)},
                                              {"a", numbers({7}, at::kBFloat16, 5)},
                                              {"none", numbers({0, 4}, at::kBFloat16)},
                                              {"c", numbers({2, 3}, at::kBFloat16, 9)}};
  write_folder(folder_.path(), "model", stored, 1'000'000);
  const Source source = Source::open(folder_.path());
  EXPECT_EQ(source.files(), 2U);
  EXPECT_STREQ(source.format(), "sharded safetensors");
  EXPECT_EQ(source.metadata().at("format"), "pt");
  const at::Tensor flat = at::full({9'000'100}, NAN, at::kBFloat16);
  std::vector<NamedParameter> parameters;
  std::int64_t at = 11;
  for (const auto& [name, tensor] : stored) {
    parameters.push_back({name, flat.narrow(0, at, tensor.numel()).view(tensor.sizes())});
    at += tensor.numel() + 1;
  }
  for (const int threads : {1, 3}) {
    flat.fill_(NAN);
    const LoadReport report = load_parameters(source, parameters, {.threads = threads});
    expect_equal(parameters, stored);
    EXPECT_EQ(at::isnan(flat).sum().item<std::int64_t>(), flat.numel() - 9'000'013);
    EXPECT_EQ(report.bytes, 2U * 9'000'013);
    EXPECT_EQ(report.direct_bytes, report.bytes);
    EXPECT_EQ(report.tensors, 4U);
    EXPECT_EQ(report.threads, threads);
  }
}

TEST_F(Weights, OtherDtypesAreCastThroughASmallBuffer) {
  const std::vector<NamedParameter> stored = {{"a", numbers({5'000'011}, at::kFloat)},
                                              {"b", numbers({3, 5}, at::kFloat)}};
  write_tensors(file_, stored);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kDouble, at::kHalf}) {
    const auto parameters = unfilled(stored, dtype);
    const TensorMemory memory(at::kCPU);
    const LoadReport report = load_parameters(Source::open(file_), parameters);
    EXPECT_EQ(memory.peak_bytes(), 0);
    expect_equal(parameters, stored);
    EXPECT_EQ(report.direct_bytes, 0U);
    EXPECT_EQ(report.bytes, 4U * 5'000'026);
  }
}

TEST_F(Weights, ParametersThatWantGradientsAreFilled) {
  nn::Parameters parameters(at::TensorOptions().dtype(at::kFloat), Draws(1));
  const at::Tensor weight = parameters.add("weight", {4, 4}, nn::Init::uniform(1));
  write_tensors(file_, {{"weight", numbers({4, 4}, at::kFloat)}});
  load_parameters(file_, parameters);
  EXPECT_TRUE(at::equal(weight, numbers({4, 4}, at::kFloat)));
  EXPECT_TRUE(weight.requires_grad());
}

TEST_F(Weights, MemoryThatIsNotRowMajorIsFilled) {
  const at::Tensor values = numbers({4, 6}, at::kFloat);
  write_tensors(file_, {{"w", values}});
  const std::vector<NamedParameter> turned = {{"w", at::full({6, 4}, NAN, at::kFloat).t()}};
  load_parameters(Source::open(file_), turned);
  EXPECT_TRUE(at::equal(turned[0].tensor, values));
}

TEST_F(Weights, ViewsInAFileOfTorchSaveAreUnravelled) {
  using namespace trestle::testing;
  std::string floats;
  for (float value = 0; value < 6; ++value) floats += little_endian(value);
  const std::string whole = storage("FloatStorage", "0", 6);
  const auto path = folder_.path() / "pytorch_model.bin";
  put_file(path,
           torch_file(pickle(dict({text("plain"), tensor(whole, 0, {2, 3}, {3, 1}), text("turned"),
                                   tensor(whole, 0, {3, 2}, {1, 3}), text("same"),
                                   tensor(whole, 4, {100}, {0}), text("epoch"), integer(3)})),
                      {floats}));
  const Source source = Source::open(path);
  EXPECT_STREQ(source.format(), "torch.save");
  EXPECT_EQ(source.other_values(), 1U);
  const at::Tensor plain = at::arange(6, at::kFloat).view({2, 3});
  const std::vector<NamedParameter> want = {
      {"plain", plain}, {"turned", plain.t()}, {"same", at::full({100}, 4, at::kFloat)}};
  const auto parameters = unfilled(want, at::kFloat);
  load_parameters(source, parameters);
  expect_equal(parameters, want);
  EXPECT_TRUE(at::equal(read_all(path).at("turned"), plain.t()));
}

TEST_F(Weights, AllThatDoesNotFitIsSaidAtOnceAndNothingIsChanged) {
  write_tensors(file_, {{"proj_out.wieght", numbers({2, 3}, at::kFloat)},
                        {"bias", numbers({3}, at::kFloat)},
                        {"scale", at::ones({4}, at::kChar)},
                        {"good", numbers({2}, at::kFloat)}});
  const auto parameters = unfilled({{"proj_out.weight", at::zeros({2, 3})},
                                    {"bias", at::zeros({4})},
                                    {"scale", at::zeros({4})},
                                    {"good", at::zeros({2})}},
                                   at::kFloat);
  const std::string message =
      refusal(ExitCode::data, [&] { load_parameters(Source::open(file_), parameters); });
  for (const char* words : {"model.safetensors does not fit the model (of 4 tensors: 1 missing, 1 "
                            "not in the model, 1 of "
                            "another shape, 1 of another kind). Check",
                            "missing: proj_out.weight [2, 3] (the file has proj_out.wieght)",
                            "not in the model: proj_out.wieght [2, 3]",
                            "of another shape: bias is [3], the model has [4]",
                            "of another kind: scale is int8, the model has Float"}) {
    EXPECT_NE(message.find(words), message.npos) << words << "\n" << message;
  }
  for (const auto& [name, tensor] : parameters) EXPECT_TRUE(at::isnan(tensor).all().item<bool>());
}

TEST_F(Weights, AListOfThousandsIsCounted) {
  std::vector<NamedParameter> stored, wanted;
  for (int i = 0; i < 300; ++i) {
    stored.push_back({fmt::format("module.layer.{}", i), at::zeros({1})});
    wanted.push_back({fmt::format("layer.{}", i), at::full({1}, NAN)});
  }
  write_tensors(file_, stored);
  const std::string message =
      refusal(ExitCode::data, [&] { load_parameters(Source::open(file_), wanted); });
  EXPECT_NE(message.find("(of 300 tensors: 300 missing, 300 not in the model)"), message.npos);
  EXPECT_NE(message.find("... and 280 more missing"), message.npos) << message;
  EXPECT_LT(std::ranges::count(message, '\n'), 50);
}

TEST_F(Weights, NamesMayBeMapped) {
  write_tensors(file_, {{"text.w", numbers({3}, at::kFloat)}, {"vision.w", at::zeros({9})}});
  const std::vector<NamedParameter> one = {{"w", at::full({3}, NAN)}};
  const Source source = Source::open(file_);
  const LoadReport report = load_parameters(source, one, {.rename = only_below("text.")});
  EXPECT_TRUE(at::equal(one[0].tensor, numbers({3}, at::kFloat)));
  EXPECT_EQ(report.left_out, 1U);
  EXPECT_NE(report.text().find("1 tensors, "), std::string::npos) << report.text();
  EXPECT_NE(report.text().find("; 1 of the file are not for this model"), std::string::npos);

  const std::vector<NamedParameter> two = {{"w", at::full({3}, NAN)},
                                           {"vision.w", at::full({9}, NAN)}};
  load_parameters(source, two, {.rename = strip_prefix("text.")});
  EXPECT_TRUE(at::equal(two[0].tensor, numbers({3}, at::kFloat)));
  const Rename all_alike = [](std::string_view) { return std::optional<std::string>("w"); };
  const std::string message =
      refusal(ExitCode::data, [&] { load_parameters(source, one, {.rename = all_alike}); });
  EXPECT_NE(message.find(R"("text.w" and "vision.w" would both be "w")"), message.npos) << message;
}

TEST_F(Weights, Float16IsSaidOnce) {
  write_tensors(file_, {{"a", at::ones({3}, at::kHalf)},
                        {"b", at::ones({3}, at::kHalf)},
                        {"c", at::ones({3}, at::kFloat)}});
  const std::vector<NamedParameter> like = {
      {"a", at::ones({3})}, {"b", at::ones({3})}, {"c", at::ones({3})}};
  const fs::path log = folder_.path() / "log";
  set_log_file(log.string());
  load_parameters(Source::open(file_), unfilled(like, at::kHalf));
  load_parameters(Source::open(file_), unfilled(like, at::kBFloat16));
  set_log_file("");
  const std::string said = get_file(log);
  EXPECT_NE(said.find("2 of 3 tensors are float16, and the model computes in bfloat16"), said.npos);
  EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
}

TEST_F(Weights, AFileThatShrinksIsAnErrorOfEveryThread) {
  const std::vector<NamedParameter> stored = {{"a", numbers({20'000'000}, at::kBFloat16)}};
  write_tensors(file_, stored);
  const Source source = Source::open(file_);
  fs::resize_file(file_, fs::file_size(file_) - 1);
  const auto parameters = unfilled(stored, at::kBFloat16);
  const std::string message =
      refusal(ExitCode::data, [&] { load_parameters(source, parameters, {.threads = 3}); });
  EXPECT_NE(message.find("model.safetensors could not be read"), message.npos) << message;
}

TEST_F(Weights, EveryDtypeOfFilesKeepsItsBytes) {
  for (const formats::ElementTypeInfo& info : formats::kElementTypes) {
    const std::string bytes(3 * info.bytes, '\1');
    formats::write_safetensors(file_, std::vector<formats::TensorToWrite>{
                                          {"t", info.type, {3}, std::as_bytes(std::span(bytes))}});
    const at::Tensor tensor = read_all(file_).at("t");
    EXPECT_EQ(std::string(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()),
              bytes);
    const fs::path again = folder_.path() / "again.safetensors";
    write_tensors(again, {{"t", tensor}});
    EXPECT_EQ(get_file(again), get_file(file_)) << info.name;
  }
}

}  // namespace
}  // namespace trestle::models::weights
