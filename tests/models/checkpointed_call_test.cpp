// Checkpointed segments against the same functions called plainly: the same bits everywhere, less
// memory, and every parameter gets its gradient.
#include "models/nn/checkpointed_call.h"

#include "base/torch/draws.h"
#include "base/torch/tensor_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>
#include <string>

namespace trestle::models::nn {
namespace {

enum class Way { plain, checkpointed };

at::Tensor values(std::string_view name, at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return Draws(1).normal(Purpose(name), shape, at::TensorOptions().dtype(dtype));
}

at::Tensor leaf(std::string_view name, at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return values(name, shape, dtype).requires_grad_(true);
}

Tensors call(Way way, const Segment& segment, const Tensors& inputs, const std::any& extra = {}) {
  return way == Way::plain ? segment(inputs, extra) : checkpointed_call(segment, inputs, extra);
}

void backward(const at::Tensor& y) {
  const at::Tensor weights = at::arange(y.numel(), y.options()).view(y.sizes()).cos();
  torch::autograd::backward({(y * weights).sum()}, {});
}

/// The value of `f` and the gradients of the leaves, which start without any.
Tensors outcome(const std::function<at::Tensor()>& f, const Tensors& leaves) {
  for (const auto& l : leaves) l.mutable_grad().reset();
  const at::Tensor y = f();
  backward(y);
  Tensors found = {y.detach()};
  for (const auto& l : leaves) found.push_back(l.grad());
  return found;
}

void expect_same_bits(const Tensors& a, const Tensors& b, const std::string& what = "") {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].defined(), b[i].defined()) << what << " tensor " << i;
    if (a[i].defined()) {
      EXPECT_TRUE(at::equal(a[i], b[i])) << what << " tensor " << i;
    }
  }
}

TEST(CheckpointedCall, HasTheBitsOfThePlainCall) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor x = leaf("x", {5, 33}, dtype), w = leaf("w", {33, 33}, dtype),
                     v = leaf("v", {33, 17}, dtype), b = leaf("b", {17}, dtype);
    const Segment first = [&](const Tensors& in, const std::any&) -> Tensors {
      const at::Tensor h = at::gelu(at::matmul(in[0], w)) + in[0] * 0.3;  // in[0] used twice
      return {h, h.t().sigmoid(), in[0]};  // a transposed output, and an input handed on
    };
    const Segment second = [&](const Tensors& in, const std::any&) -> Tensors {
      return {at::addmm(b, in[0], v) * in[1].t().slice(1, 0, 17), in[1] * 2};
    };
    const auto network = [&](Way way) {
      const Tensors h = call(way, first, {x});
      const Tensors y = call(way, second, {h[0], h[1]});  // y[1] stays unused
      return y[0] + y[0].flip(0) + h[2].slice(1, 0, 17) * h[0].slice(1, 0, 17);
    };
    const Tensors leaves = {x, w, v, b};
    expect_same_bits(outcome([&] { return network(Way::checkpointed); }, leaves),
                     outcome([&] { return network(Way::plain); }, leaves));
  }
}

TEST(CheckpointedCall, ParametersGetTheirGradientsThoughNoInputWantsOne) {
  const at::Tensor w = leaf("w", {4, 4}), b = leaf("b", {4}), x = values("x", {3, 4});
  const Segment segment = [&](const Tensors& in, const std::any&) -> Tensors {
    return {at::linear(in[0], w, b).tanh()};
  };
  const Tensors plain = outcome([&] { return call(Way::plain, segment, {x})[0]; }, {w, b});
  expect_same_bits(outcome([&] { return call(Way::checkpointed, segment, {x})[0]; }, {w, b}),
                   plain);
  ASSERT_TRUE(plain[1].defined());
  // Not even an input: a table of parameters, say.
  const Segment table = [&](const Tensors&, const std::any&) -> Tensors { return {w * 2, w}; };
  w.mutable_grad().reset();
  const Tensors rows = checkpointed_call(table, {});
  backward(rows[0] + rows[1]);
  EXPECT_TRUE(w.grad().defined());
  EXPECT_TRUE(w.is_leaf());  // though it went out as an output
}

TEST(CheckpointedCall, FrozenPartsStayFrozen) {
  const at::Tensor x = leaf("x", {3, 4}), still = values("still", {3, 4}), w = leaf("w", {4, 4}),
                   frozen = values("f", {4, 4});
  const Segment segment = [&](const Tensors& in, const std::any&) -> Tensors {
    return {at::matmul(in[0], w) * in[1] + at::matmul(in[1], frozen), in[1] * 2, in[1]};
  };
  const auto network = [&](Way way) {
    const Tensors y = call(way, segment, {x, still});
    EXPECT_TRUE(y[0].requires_grad());
    EXPECT_FALSE(y[1].requires_grad());
    EXPECT_FALSE(y[2].requires_grad());
    return y[0] + y[1] * y[2];
  };
  const Tensors leaves = {x, w};
  expect_same_bits(outcome([&] { return network(Way::checkpointed); }, leaves),
                   outcome([&] { return network(Way::plain); }, leaves));
  EXPECT_FALSE(still.grad().defined());
  EXPECT_FALSE(frozen.grad().defined());
  // Nothing in here trains, so nothing is computed twice.
  int calls = 0;
  const Segment teacher = [&](const Tensors& in, const std::any&) -> Tensors {
    ++calls;
    return {at::matmul(in[0], frozen)};
  };
  backward(checkpointed_call(teacher, {still})[0] * w[0]);
  EXPECT_EQ(calls, 1);
}

TEST(CheckpointedCall, ReusedParametersHaveTheSameBitsWhereTheirSumsHaveOneOrder) {
  const at::Tensor x = leaf("x", {6, 8}), w = leaf("w", {8, 8});
  const Segment once = [&](const Tensors& in, const std::any&) -> Tensors {
    return {at::matmul(in[0], w).tanh()};
  };
  const Segment twice = [&](const Tensors& in, const std::any&) -> Tensors {
    return {at::matmul(at::matmul(in[0], w).tanh(), w).tanh()};
  };
  const auto network = [&](Way way, const Segment& segment, int segments) {
    Tensors h = {x};
    for (int i = 0; i < segments; ++i) h = call(way, segment, h);
    return h[0];
  };
  const auto run = [&](Way way, const Segment& segment, int segments, int accumulation) {
    Tensors found = outcome([&] { return network(way, segment, segments); }, {x, w});
    for (int i = 1; i < accumulation; ++i) backward(network(way, segment, segments));
    return found;
  };
  // Twice within a segment, or in each of several segments.
  expect_same_bits(run(Way::checkpointed, twice, 1, 3), run(Way::plain, twice, 1, 3));
  expect_same_bits(run(Way::checkpointed, once, 3, 1), run(Way::plain, once, 3, 1));
  // Both, or several segments on top of earlier gradients: to rounding.
  for (const auto& [segment, accumulation] : {std::pair(twice, 1), {once, 3}, {twice, 3}}) {
    const at::Tensor plain = run(Way::plain, segment, 3, accumulation)[2];
    const at::Tensor found = run(Way::checkpointed, segment, 3, accumulation)[2];
    EXPECT_LT(((found - plain).norm() / plain.norm()).item<double>(), 1e-6);
  }
}

TEST(CheckpointedCall, EvaluationJustCalls) {
  const at::Tensor w = leaf("w", {4, 4}), x = leaf("x", {3, 4});
  int calls = 0;
  const Segment segment = [&](const Tensors& in, const std::any&) -> Tensors {
    ++calls;
    EXPECT_FALSE(at::GradMode::is_enabled());
    EXPECT_TRUE(in[0].is_same(x));  // nothing was wrapped to be kept
    return {at::matmul(in[0], w)};
  };
  const at::NoGradGuard guard;
  const at::Tensor y = checkpointed_call(segment, {x})[0];
  EXPECT_FALSE(y.requires_grad());
  EXPECT_EQ(calls, 1);
}

TEST(CheckpointedCall, ModesWithinASegmentAndSegmentsWithinSegments) {
  const at::Tensor x = leaf("x", {3, 4}), w = leaf("w", {4, 4}), v = leaf("v", {4, 4});
  const auto network = [&](Way outer, Way inner) {
    const Segment part = [&](const Tensors& in, const std::any&) -> Tensors {
      EXPECT_TRUE(at::GradMode::is_enabled());
      return {at::matmul(in[0], v).sigmoid()};
    };
    const Segment whole = [&w, inner, part](const Tensors& in, const std::any&) -> Tensors {
      at::Tensor target;
      {
        const at::NoGradGuard stop_gradient;
        target = call(
            inner,
            [&](const Tensors& t, const std::any&) -> Tensors { return {at::matmul(t[0], w)}; },
            in)[0];
      }
      const at::Tensor h = call(inner, part, {at::matmul(in[0], w)})[0];
      return {h * target};
    };
    const Tensors y = call(outer, whole, {x});
    return outcome([&] { return call(outer, whole, y)[0]; }, {w, v, x});
  };
  const Tensors plain = network(Way::plain, Way::plain);
  expect_same_bits(network(Way::checkpointed, Way::plain), plain);
  expect_same_bits(network(Way::checkpointed, Way::checkpointed), plain);
}

TEST(CheckpointedCall, ExtraLivesUntilBackwardAndReachesBothRuns) {
  struct Adapters {
    std::string active;
  };
  const at::Tensor x = leaf("x", {2, 3});
  std::vector<std::string> seen;
  const Segment segment = [&](const Tensors& in, const std::any& extra) -> Tensors {
    seen.push_back(std::any_cast<const std::shared_ptr<Adapters>&>(extra)->active);
    return {in[0] * 2};
  };
  std::weak_ptr<Adapters> watch;
  {
    at::Tensor y;
    {
      const auto adapters = std::make_shared<Adapters>(Adapters{"style"});
      watch = adapters;
      y = checkpointed_call(segment, {x}, adapters)[0];
    }
    EXPECT_FALSE(watch.expired());
    backward(y);
  }
  EXPECT_EQ(seen, (std::vector<std::string>{"style", "style"}));
  EXPECT_TRUE(watch.expired());
}

TEST(CheckpointedCall, DrawsInsideASegmentAreDrawnAgain) {
  const at::Tensor x = leaf("x", {4, 50});
  const std::vector<Position> positions = {{7}, {1}, {9}, {2}};
  Tensors masks;
  const Segment dropout = [&masks](const Tensors& in, const std::any& extra) -> Tensors {
    const auto& at_positions = std::any_cast<const std::vector<Position>&>(extra);
    masks.push_back(Draws(3).uniform(at_positions, Purpose("drop"), {50}, in[0].options()) > 0.5);
    return {at::sin(in[0]) * masks.back()};
  };
  const auto network = [&](Way way) {
    return outcome([&] { return call(way, dropout, {x}, positions)[0]; }, {x});
  };
  const Tensors plain = network(Way::plain);
  expect_same_bits(network(Way::checkpointed), plain);
  ASSERT_EQ(masks.size(), 3u);
  EXPECT_TRUE(at::equal(masks[1], masks[2]));
}

TEST(CheckpointedCall, TensorsMayBeUndefinedOrInteger) {
  const at::Tensor x = leaf("x", {3, 4}), rows = at::tensor({2, 0, 1});
  const Segment segment = [](const Tensors& in, const std::any&) -> Tensors {
    EXPECT_FALSE(in[1].defined());
    return {in[0].index_select(0, in[2]), at::Tensor(), in[2] + 1};
  };
  const auto network = [&](Way way) {
    const Tensors y = call(way, segment, {x, {}, rows});
    EXPECT_FALSE(y[1].defined());
    return y[0] * y[2].unsqueeze(1);
  };
  expect_same_bits(outcome([&] { return network(Way::checkpointed); }, {x}),
                   outcome([&] { return network(Way::plain); }, {x}));
}

TEST(CheckpointedCall, BackwardTwiceIsAsWithAnyGraph) {
  const at::Tensor x = leaf("x", {3});
  const auto square = [](const Tensors& in, const std::any&) -> Tensors { return {in[0] * in[0]}; };
  const at::Tensor y = checkpointed_call(square, {x})[0].sum();
  torch::autograd::backward({y}, {}, /*retain_graph=*/true);
  torch::autograd::backward({y}, {});
  EXPECT_TRUE(at::equal(x.grad(), 4 * x.detach()));
  EXPECT_THROW(torch::autograd::backward({y}, {}), std::exception);
}

TEST(CheckpointedCall, RefusesWhatWouldBeWrong) {
  const at::Tensor x = leaf("x", {3}), w = leaf("w", {3});
  const Segment product = [&](const Tensors& in, const std::any&) -> Tensors {
    return {in[0] * w};
  };
  const auto y = [&] { return checkpointed_call(product, {x})[0].sum(); };
  EXPECT_ANY_THROW(torch::autograd::grad({y()}, {x}));
  EXPECT_ANY_THROW(torch::autograd::backward({y()}, {}, std::nullopt, /*create_graph=*/true));
  EXPECT_FALSE(w.grad().defined());
  const at::Tensor h = x * 1;
  const at::Tensor changed = checkpointed_call(product, {h})[0].sum();
  h.add_(1);
  EXPECT_THROW(torch::autograd::backward({changed}, {}), std::exception);
}

// ---- run_blocks ----

/// Blocks that use what they share several times each, as Sana's use text and modulation.
struct Tower {
  explicit Tower(at::ScalarType dtype, std::size_t blocks = 5) {
    for (std::size_t i = 0; i < blocks; ++i) {
      const auto own = [&](const char* name, at::IntArrayRef shape) {
        return leaf(fmt::format("{}.{}", name, i), shape, dtype);
      };
      query.push_back(own("query", {16, 16}));
      key.push_back(own("key", {16, 16}));
      value.push_back(own("value", {16, 16}));
      table.push_back(own("table", {1, 3, 16}));
    }
    text = leaf("text", {2, 7, 16}, dtype);
    modulation = leaf("modulation", {2, 3, 16}, dtype);
    x = leaf("x", {2, 9, 16}, dtype);
    reused = leaf("reused", {16}, dtype);
  }

  Tensors operator()(std::size_t i, const Tensors& carried, const Tensors& shared) const {
    const auto m = (table[i] + shared[1]).chunk(3, 1);
    const at::Tensor& tokens = carried[0];
    const at::Tensor q = at::matmul(tokens * (1 + m[0]) + m[1], query[i]);
    const at::Tensor k = at::matmul(shared[0], key[i]), v = at::matmul(shared[0], value[i]);
    const at::Tensor out = at::matmul(at::softmax(at::matmul(q, k.transpose(1, 2)), -1), v);
    const at::Tensor next = tokens + m[2] * out * shared[2] + shared[0].mean(1, true) * shared[2];
    Tensors all = carried;
    all[0] = next;
    if (i == 1) all.push_back(out);  // a hidden state that the loss wants
    return all;
  }

  at::Tensor loss(std::int64_t every) const {
    const Block block = [this](std::size_t i, const Tensors& carried, const Tensors& shared,
                               const std::any&) { return (*this)(i, carried, shared); };
    // Something before the blocks, so that the sums of what is shared arrive at a node.
    const Tensors y = run_blocks(query.size(), every, block, {x.tanh()},
                                 {text.sin(), modulation * 1.5, reused, /*mask=*/at::Tensor()});
    EXPECT_EQ(y.size(), 2u);
    return y[0] + y[1];
  }

  Tensors leaves() const {
    Tensors all = {text, modulation, x, reused};
    for (const auto* list : {&query, &key, &value, &table})
      all.insert(all.end(), list->begin(), list->end());
    return all;
  }

  Tensors query, key, value, table;
  at::Tensor text, modulation, x, reused;
};

TEST(RunBlocks, SegmentsOfAnyLengthHaveTheSameBits) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    const Tower tower(dtype);
    const Tensors plain = outcome([&] { return tower.loss(0); }, tower.leaves());
    for (const auto& gradient : plain) ASSERT_TRUE(gradient.defined());
    for (std::int64_t every = 1; every <= 6; ++every) {
      expect_same_bits(outcome([&] { return tower.loss(every); }, tower.leaves()), plain,
                       fmt::format("segments of {}", every));
    }
    // On top of earlier gradients, the parameter that all blocks share included.
    const auto accumulated = [&](std::int64_t every) {
      Tensors found = outcome([&] { return tower.loss(every); }, tower.leaves());
      for (int i = 0; i < 2; ++i) backward(tower.loss(every));
      return found;  // the gradients' own tensors, which have grown
    };
    const Tensors plain_sum = accumulated(0);
    EXPECT_FALSE(at::equal(plain_sum[1], plain[1]));
    expect_same_bits(accumulated(1), plain_sum, "accumulated, segments of 1");
    expect_same_bits(accumulated(2), plain_sum, "accumulated, segments of 2");
  }
}

TEST(RunBlocks, FrozenSharedTensorsGetNoGradient) {
  Tower tower(at::kFloat);
  tower.text.requires_grad_(false);
  tower.query[2].requires_grad_(false);
  const Tensors leaves = tower.leaves();
  const Tensors plain = outcome([&] { return tower.loss(0); }, leaves);
  EXPECT_FALSE(plain[1].defined());
  expect_same_bits(outcome([&] { return tower.loss(2); }, leaves), plain);
}

TEST(RunBlocks, OneBlocksActivationsAreHeldInsteadOfAll) {
  const at::Tensor w = leaf("w", {64, 64}), x = leaf("x", {256, 64});
  const Block block = [&](std::size_t, const Tensors& carried, const Tensors&, const std::any&) {
    at::Tensor h = carried[0];
    for (int i = 0; i < 6; ++i) h = at::matmul(h, w).sigmoid();  // keeps six of x's size
    return Tensors{h};
  };
  const auto peak_of = [&](std::int64_t every) {
    const TensorMemory memory(at::kCPU);
    outcome([&] { return run_blocks(8, every, block, {x}, {})[0]; }, {w, x});
    return double(memory.peak_bytes()) / double(x.nbytes());
  };
  peak_of(0);  // whatever is made once
  const double none = peak_of(0), one = peak_of(1), four = peak_of(4);
  EXPECT_GT(none, 8 * 6);
  EXPECT_LT(one, 8 + 6 + 8);  // the inputs, one block's activations, gradients
  EXPECT_LT(four, 2 + 4 * 6 + 8);
}

}  // namespace
}  // namespace trestle::models::nn
