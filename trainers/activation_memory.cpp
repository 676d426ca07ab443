#include "trainers/activation_memory.h"

#include "base/error.h"
#include "base/torch/tensor_memory.h"
#include "dist/flat_group.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace trestle::trainers {
namespace {

/// A CPU tensor of the same sizes and strides, all zeros.
at::Tensor zeros_for(const at::Tensor& meta) {
  const auto elements = static_cast<std::int64_t>(
      at::detail::computeStorageNbytes(meta.sizes(), meta.strides(), /*itemsize=*/1));
  return at::zeros({elements}, meta.options().device(at::kCPU))
      .as_strided(meta.sizes(), meta.strides());
}

c10::IValue map_tensors(const c10::IValue& value, at::Tensor (*map)(const at::Tensor&)) {
  if (value.isTensor()) return value.toTensor().defined() ? map(value.toTensor()) : value;
  if (value.isTensorList()) {
    std::vector<at::Tensor> mapped;
    for (const at::Tensor& tensor : value.toTensorVector())
      mapped.push_back(tensor.defined() ? map(tensor) : tensor);
    return mapped;
  }
  if (value.isList()) {
    c10::impl::GenericList mapped(value.toList().elementType());
    for (const c10::IValue& element : value.toListRef())
      mapped.push_back(map_tensors(element, map));
    return mapped;
  }
  return value;
}

/// The argument that an operation writes to and gives back as this result.
std::optional<std::size_t> written_argument(const c10::FunctionSchema& schema, std::size_t result) {
  const auto* written = schema.returns()[result].alias_info();
  if (written == nullptr || !written->isWrite()) return std::nullopt;
  for (std::size_t a = 0; a < schema.arguments().size(); ++a) {
    const auto* argument = schema.arguments()[a].alias_info();
    if (argument != nullptr && argument->beforeSets() == written->beforeSets()) return a;
  }
  return std::nullopt;
}

/// A kernel for operations that have none for the meta device: makes the CPU's results on zeros,
/// one operation at a time, and keeps their shapes.
void run_on_zeros(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = operation.schema();
  TORCH_CHECK(!operation.hasTag(at::Tag::dynamic_output_shape) &&
                  !operation.hasTag(at::Tag::data_dependent_output),
              "what ", schema.name(), " gives depends on values");
  const std::size_t count = schema.arguments().size(), first = stack->size() - count;
  const std::vector<c10::IValue> arguments(stack->begin() + std::ptrdiff_t(first), stack->end());
  for (std::size_t i = first; i < stack->size(); ++i) {
    (*stack)[i] = map_tensors((*stack)[i], [](const at::Tensor& tensor) {
      return tensor.is_meta() ? zeros_for(tensor) : tensor;
    });
  }
  TORCH_CHECK(std::ranges::any_of(arguments,
                                  [](const c10::IValue& argument) {
                                    return argument.isTensor() || argument.isTensorList();
                                  }),
              schema.name(), " makes something from nothing");  // it would come back here
  operation.callBoxed(stack);
  for (std::size_t i = 0; i < schema.returns().size(); ++i) {
    c10::IValue& result = (*stack)[first + i];
    if (const auto target = written_argument(schema, i)) {
      const at::Tensor& kept = arguments[*target].toTensor();
      if (kept.sizes() != result.toTensor().sizes()) kept.resize_(result.toTensor().sizes());
      result = kept;
      continue;
    }
    result = map_tensors(result, [](const at::Tensor& tensor) {
      return at::empty_strided(tensor.sizes(), tensor.strides(),
                               tensor.options().device(at::kMeta));
    });
  }
}

/// Torch's choice on the CPU.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::optional<at::Tensor>& mask, double dropout, bool is_causal,
                     std::optional<double> scale, bool enable_gqa) {
  const bool trains_mask = mask && mask->defined() && mask->requires_grad();
  if (q.dim() == 4 && dropout == 0 && !trains_mask && !enable_gqa) {
    return std::get<0>(
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, is_causal, mask, scale));
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(q, k, v, mask, dropout, is_causal,
                                                            std::nullopt, scale, enable_gqa));
}

/// While it lives, the meta device does what the CPU does. Torch's C++ library lacks the kernels of
/// many operations there, and its attention is the unfused one, which holds all weights of all
/// heads.
class MetaLikeCpu {
 public:
  MetaLikeCpu() {
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
      const auto operation = dispatcher.findSchema(name);
      if (!operation || name.getNamespace() != "aten" ||
          !operation->hasKernelForDispatchKey(c10::DispatchKey::CPU) ||
          operation->hasKernelForDispatchKey(c10::DispatchKey::Meta))
        continue;
      kernels_.impl(c10::toString(name).c_str(),
                    torch::CppFunction::makeFromBoxedFunction<&run_on_zeros>());
    }
    // These look for the device's own kernel, and there is none.
    for (const char* name : {"convolution", "convolution_backward"})
      kernels_.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_zeros>());
    kernels_.impl("scaled_dot_product_attention", TORCH_FN(attention));
    choice_.impl("scaled_dot_product_attention", TORCH_FN(attention));
  }

 private:
  using Library = torch::Library;
  Library kernels_{Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__};
  Library choice_{Library::IMPL, "aten", c10::DispatchKey::AutogradMeta, __FILE__, __LINE__};
};

/// Lets go of each leaf's gradient once it has come, as a gradient reducer does.
class DroppedGradients {
 public:
  explicit DroppedGradients(const std::vector<ParameterGroup>& groups) {
    for (const ParameterGroup& group : groups) {
      for (const NamedParameter& parameter : group.parameters) add(parameter.tensor);
    }
  }
  ~DroppedGradients() {
    for (auto& [accumulator, hook] : hooks_) accumulator->del_post_hook(hook);
  }
  DroppedGradients(const DroppedGradients&) = delete;
  DroppedGradients& operator=(const DroppedGradients&) = delete;

 private:
  struct Drop : torch::autograd::FunctionPostHook {
    explicit Drop(at::Tensor of) : leaf(std::move(of)) {}
    torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                              const torch::autograd::variable_list&) override {
      leaf.mutable_grad().reset();
      return outputs;
    }
    at::Tensor leaf;
  };

  void add(const at::Tensor& leaf) {
    const auto sum_dtype = dist::sum_dtype_of(leaf.scalar_type());
    if (sum_dtype != leaf.scalar_type()) leaf.set_grad_dtype(sum_dtype);
    leaf.requires_grad_(true);
    auto accumulator = torch::autograd::impl::grad_accumulator(leaf);
    const auto hook = accumulator->add_post_hook(std::make_unique<Drop>(leaf));
    hooks_.emplace_back(std::move(accumulator), hook);
  }

  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, std::uintptr_t>> hooks_;
};

/// As many rows as asked for, with the shapes of those that could be read.
data::Batch batch_on_meta(const data::Dataset& dataset, std::int64_t samples) {
  std::vector<data::SampleId> ids;
  for (std::int64_t i = 0; i < std::min(samples, dataset.size()); ++i) ids.push_back(i);
  const data::Batch read = data::load_good(dataset, ids);
  TRESTLE_REQUIRE_AS(data, read.size() > 0,
                     "none of the first {} training samples can be read (trestle validate says "
                     "why). Repair them.",
                     ids.size());
  data::Batch batch;
  for (std::int64_t i = 0; i < samples; ++i) {
    batch.ids.push_back(read.ids[static_cast<std::size_t>(i % read.size())]);
    batch.positions.push_back({i});
  }
  for (const auto& [name, tensor] : read.tensors) {
    std::vector<std::int64_t> shape = tensor.sizes().vec();
    shape.at(0) = samples;
    batch.tensors[name] = at::empty(shape, tensor.options().device(at::kMeta));
  }
  return batch;
}

std::int64_t bytes_of(const data::Batch& batch) {
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : batch.tensors) bytes += std::int64_t(tensor.nbytes());
  return bytes;
}

void choose_leaves(const Objective& objective, const std::vector<ParameterGroup>& groups) {
  for (const ParameterGroup& group : groups) {
    const bool trained = std::ranges::count(objective.groups, group.name) > 0;
    for (const NamedParameter& parameter : group.parameters)
      parameter.tensor.requires_grad_(trained);
  }
}

void forward_and_backward(Task& task, const Objective& objective, const data::Batch& batch) {
  const Draws draws(0);
  at::Tensor total;
  {
    const LossReport report =
        task.loss(objective, batch, {.step = {objective.first}, .draws = draws});
    for (const LossTerm& term : report.terms) {
      const at::Tensor share = term.per_sample.sum() / double(batch.size());
      total = total.defined() ? total + share : share;
    }
  }
  if (total.defined()) torch::autograd::backward({total}, {});
}

}  // namespace

ActivationMemory trace_activations(Task& task, std::int64_t samples) {
  ActivationMemory found;
  try {
    const TensorMemory opened(at::kCPU, TensorMemory::Of::this_thread);
    const data::Dataset& dataset = task.dataset(Split::train);
    found.dataset_bytes = opened.live_bytes();
    const std::vector<ParameterGroup> groups = task.groups();
    const MetaLikeCpu as_on_the_cpu;
    const DroppedGradients dropped(groups);
    for (const Objective& objective : task.objectives()) {
      choose_leaves(objective, groups);
      const TensorMemory memory(at::kMeta);
      const data::Batch batch = batch_on_meta(dataset, samples);
      found.batch_bytes = bytes_of(batch);
      forward_and_backward(task, objective, batch);
      found.peak_bytes = std::max(found.peak_bytes, memory.peak_bytes());
    }
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    found = {.unknown = error.what()};
  } catch (const c10::Error& error) {
    const std::string said = error.what_without_backtrace();
    found = {.unknown = fmt::format("the loss cannot be followed on the meta device: {}",
                                    said.substr(0, said.find('\n')))};
  }
  return found;
}

}  // namespace trestle::trainers
