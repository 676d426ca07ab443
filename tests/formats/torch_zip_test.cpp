// Files of torch.save, put together by hand; that torch's own are read is for the oracle
// (tests/oracle/weights_oracle.py).
#include "formats/torch_zip.h"

#include "base/error.h"
#include "tests/formats/hostile.h"
#include "tests/formats/torch_files.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

using namespace trestle::testing;

class TorchZipTest : public ::testing::Test {
 protected:
  TorchZip open(const std::string& bytes) {
    file_.put(bytes);
    return TorchZip::open(file_.path());
  }
  void expect_refusal(const std::string& bytes, const std::string& why) {
    const std::string message = refusal(ExitCode::data, [&] { open(bytes); });
    EXPECT_NE(message.find("cannot be read as a file of torch.save ("), message.npos) << message;
    EXPECT_NE(message.find(why), message.npos) << why << "\n" << message;
  }
  /// The refusal of a pickle in an otherwise sound file with one storage of 16 bytes.
  void expect_pickle_refusal(const std::string& value, const std::string& why) {
    expect_refusal(torch_file(pickle(value), {std::string(16, '.')}), why);
  }
  static std::string bytes_of(const TorchZip& file, std::size_t index) {
    const StoredTensor& tensor = file.tensors().at(index);
    std::string bytes(tensor.span_bytes, '?');
    file.bytes().read_exact(tensor.begin_bytes, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }

  MemoryFile file_;
};

std::string four_floats(std::int64_t offset, const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& strides) {
  return tensor(storage("FloatStorage", "0", 4), offset, shape, strides);
}

TEST_F(TorchZipTest, TensorsAreNamedByTheirKeysInOrder) {
  const std::string value =
      dict({text("model"),
            dict({text("b.weight"), four_floats(0, {2, 2}, {2, 1}), text("a"),
                  tensor(storage("BFloat16Storage", "1", 3), 1, {}, {})}),
            text("state"), dict({integer(7), "](" + four_floats(3, {1}, {1}) + "NK\x05" + "e"}),
            text("step"), integer(-1), text("name"), text("x"), text("big"),
            "\x8a\x09" + std::string(9, '\x7f')});
  for (const ZipEnd end : {ZipEnd::plain, ZipEnd::zip64}) {
    const TorchZip file = open(torch_file(pickle(value), {"0123456789abcdef", "ABCDEF"}, end));
    ASSERT_EQ(file.tensors().size(), 3U);
    EXPECT_EQ(file.tensors()[0].name, "model.b.weight");
    EXPECT_EQ(file.tensors()[0].dtype, ElementType::float32);
    EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{2, 2}));
    EXPECT_TRUE(file.tensors()[0].strides.empty());
    EXPECT_EQ(bytes_of(file, 0), "0123456789abcdef");
    EXPECT_EQ(file.tensors()[1].name, "model.a");
    EXPECT_EQ(file.tensors()[1].dtype, ElementType::bfloat16);
    EXPECT_EQ(bytes_of(file, 1), "CD");
    EXPECT_EQ(file.tensors()[2].name, "state.7.0");
    EXPECT_EQ(bytes_of(file, 2), "cdef");
    EXPECT_EQ(file.other_values(), 5U);
  }
}

TEST_F(TorchZipTest, ViewsKeepTheirStrides) {
  const TorchZip file = open(torch_file(
      pickle(dict({text("turned"), four_floats(0, {2, 2}, {1, 2}), text("row"),
                   four_floats(2, {1, 2}, {9, 1}), text("same"), four_floats(1, {5}, {0}),
                   text("none"), four_floats(4, {0, 3}, {3, 1})})),
      {"0123456789abcdef"}));
  EXPECT_EQ(file.tensors()[0].strides, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(file.tensors()[0].span_bytes, 16U);
  EXPECT_TRUE(file.tensors()[1].strides.empty());  // the stride of one row says nothing
  EXPECT_EQ(bytes_of(file, 1), "89abcdef");
  EXPECT_EQ(file.tensors()[2].strides, std::vector<std::int64_t>{0});
  EXPECT_EQ(bytes_of(file, 2), "4567");
  EXPECT_EQ(file.tensors()[3].span_bytes, 0U);
}

TEST_F(TorchZipTest, ParametersAttributesAndOneTensorAlone) {
  const std::string parameter = global("torch._utils", "_rebuild_parameter") +
                                tuple({four_floats(0, {4}, {1}), "\x88", empty_dict()}) + "R";
  const std::string state = empty_dict() + "(" + text("w") + parameter + "u" + "}" +
                            text("_metadata") + empty_dict() + "s" + "b";
  EXPECT_EQ(open(torch_file(pickle(state), {"0123456789abcdef"})).tensors().at(0).name, "w");
  const TorchZip alone = open(torch_file(pickle(parameter), {"0123456789abcdef"}));
  EXPECT_EQ(alone.tensors().at(0).name, "tensor");
}

TEST_F(TorchZipTest, NothingIsExecuted) {
  const std::string system = global("os", "system") + tuple({text("echo bad >&2")}) + "R";
  expect_pickle_refusal(system, R"(it asks for "system" of the Python module "os")");
  expect_pickle_refusal(dict({text("a"), system}), "load it in Python");
  expect_pickle_refusal(global("torch", "load"), R"("load" of the Python module "torch")");
  expect_pickle_refusal(global("torch._utils", "_rebuild_qtensor"), "_rebuild_qtensor");
  expect_pickle_refusal(global("torch", "QInt8Storage"), "QInt8Storage");
  expect_pickle_refusal(global("torch", "Size") + tuple({integers({1})}) + "R", "Size");
  expect_pickle_refusal(text("os") + text("system") + "\x93", "the instruction STACK_GLOBAL");
  expect_pickle_refusal("(S'echo'\nios\nsystem\n", "the instruction 0x53");
  expect_pickle_refusal(global("collections", "OrderedDict") + ")\x81", "instruction NEWOBJ");
  expect_pickle_refusal(global("collections", "OrderedDict") + tuple({"]"}) + "R", "is made of");
  expect_pickle_refusal(integer(1) + ")R", "calls what is no function");
  expect_pickle_refusal(text("a") + "}b", "adds to what is not a dict");
  expect_refusal(torch_file("\x80\x04\x95", {}), "its pickle is not of protocol 2");
}

TEST_F(TorchZipTest, PicklesThatDoNotAddUpAreRefused) {
  expect_pickle_refusal("", "does not end with one value");
  expect_pickle_refusal("NN", "does not end with one value");
  expect_pickle_refusal("(N", "does not end with one value");
  expect_pickle_refusal("N.N", "does not end with one value");
  expect_refusal(torch_file("\x80\x02N", {}), "ends too early");
  expect_pickle_refusal("X" + u32(99) + "a", "ends too early");
  expect_pickle_refusal("ctorch", "a name in its pickle does not end");
  expect_pickle_refusal("c" + std::string(300, 'm') + "\nx\n", "does not end");
  expect_pickle_refusal("t", "no mark");
  expect_pickle_refusal("N(\x85", "a value that is not there");
  expect_pickle_refusal("h\x01", "recalls a value");
  expect_pickle_refusal("q\x01", "a value that is not there");
  expect_pickle_refusal("}(Nu", "a key without a value");
  expect_pickle_refusal("}Na", "adds to what is not a list");
  expect_pickle_refusal("](}Na", "adds to what is not a list");
  expect_pickle_refusal(text("x") + "Q", "odd storage");
  expect_pickle_refusal(
      tuple({text("stored"), global("torch", "FloatStorage"), text("0"), text("cpu"), integer(4)}) +
          "Q",
      "odd storage");
}

TEST_F(TorchZipTest, TensorsLieWithinTheirStorages) {
  const auto outside = [&](std::int64_t offset, const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& strides) {
    expect_pickle_refusal(four_floats(offset, shape, strides), "does not lie within storage");
  };
  outside(0, {5}, {1});
  outside(1, {4}, {1});
  outside(4, {}, {});
  outside(5, {0}, {1});
  outside(0, {2, 2}, {3, 1});
  outside(0, {2, 2}, {1});
  outside(0, {std::int64_t{1} << 62, 4}, {0, 0});
  outside(0, {3}, {std::int64_t{1} << 62});
  outside(std::int64_t{1} << 62, {2}, {std::int64_t{1} << 62});
  expect_pickle_refusal(four_floats(-1, {1}, {1}), "made of odd things");
  expect_pickle_refusal(four_floats(0, {-1}, {1}), "something other than a count");
  expect_pickle_refusal(four_floats(1, {2}, {-1}), "something other than a count");
  expect_pickle_refusal(
      four_floats(0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)),
      "at most 64");
  expect_pickle_refusal(storage("FloatStorage", "0", -1), "is said to have -1 elements");
  expect_pickle_refusal(storage("LongStorage", "0", std::int64_t{1} << 62), "is said to have");
  expect_pickle_refusal(tensor(storage("FloatStorage", "7", 4), 0, {4}, {1}),
                        R"(tensor "tensor" lies in storage "7", which is missing)");
  expect_pickle_refusal(tensor(storage("FloatStorage", "0", 3), 0, {3}, {1}),
                        "storage \"0\" of 12 bytes, which has 16");
  expect_pickle_refusal(
      global("torch._utils", "_rebuild_tensor_v2") +
          tuple({storage("FloatStorage", "0", 4), integer(0), integers({4}), integers({1}), "\x89",
                 empty_dict(), dict({text("neg"), "\x88"})}) +
          "R",
      "only flagged as conjugated or negated");
}

TEST_F(TorchZipTest, ValuesThatSwellOrRunInCirclesAreRefused) {
  expect_pickle_refusal(
      "]q\x01"
      "h\x01"
      "a",
      "deeper than 64 levels");
  // Lists of two of the list before: 2^40 places from 40 values.
  std::string laughs = "]q" + std::string(1, '\0');
  for (char i = 1; i < 40; ++i) {
    laughs +=
        std::string("](h") + static_cast<char>(i - 1) + "h" + static_cast<char>(i - 1) + "eq" + i;
  }
  expect_pickle_refusal("(" + laughs + "t", "very many places");
  expect_pickle_refusal("(" + std::string(2'000'001, 'N') + "t", "more than 2000000 values");
  std::string deep;
  for (int i = 0; i < 70; ++i) deep += "]";
  expect_pickle_refusal(deep + std::string(69, 'a'), "deeper than 64 levels");
}

TEST_F(TorchZipTest, NamesAreUniqueAndText) {
  const std::string one = four_floats(0, {1}, {1});
  expect_pickle_refusal(dict({text("a.b"), one, text("a"), dict({text("b"), one})}),
                        R"(two tensors are named "a.b")");
  expect_pickle_refusal(dict({"N", one}), "neither a text nor an integer");
  expect_pickle_refusal(dict({text("\xff"), one}), "is not UTF-8");
  expect_pickle_refusal(dict({text(std::string(2000, 'n')), one}), "a name of 2000 bytes");
}

TEST_F(TorchZipTest, OtherFilesAreNamed) {
  expect_refusal("", "no zip file");
  expect_refusal(std::string("\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8\x50\x19.\x80\x02M", 18),
                 "before torch 1.6). Load it in Python and save it again");
  const std::string good = pickle("N");
  const auto with = [&](std::vector<ZipPart> parts) {
    parts.insert(parts.begin(), {.name = "m/data.pkl", .data = good});
    return zip_of(parts);
  };
  const ZipPart version{.name = "m/version", .data = "3\n"};
  EXPECT_TRUE(open(with({version})).tensors().empty());
  expect_refusal(with({}), "no entry version");
  expect_refusal(with({{.name = "m/version", .data = "11"}}), "version \"11\", and 10 is");
  expect_refusal(with({{.name = "m/version", .data = "x"}}), "version \"x\"");
  expect_refusal(with({version, {.name = "m/byteorder", .data = "big"}}), "big-endian");
  expect_refusal(with({version, {.name = "m/constants.pkl", .data = ""}}), "TorchScript");
  expect_refusal(with({version, {.name = "n/data.pkl", .data = ""}}), "two entries data.pkl");
  expect_refusal(zip_of({version}), "no data.pkl");
}

TEST_F(TorchZipTest, DamagedCopiesAreReadOrRefused) {
  const std::string good =
      torch_file(pickle(dict({text("a"), four_floats(0, {2, 2}, {1, 2}), text("b"), text("x")})),
                 {"0123456789abcdef"});
  for (std::uint32_t seed = 0; seed < 3000; ++seed) {
    file_.put(damaged(good, seed));
    try {
      const TorchZip file = TorchZip::open(file_.path());
      for (const StoredTensor& tensor : file.tensors()) {
        EXPECT_LE(tensor.begin_bytes + tensor.span_bytes, good.size() + 64);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data) << error.what();
    }
  }
}

}  // namespace
}  // namespace trestle::formats
