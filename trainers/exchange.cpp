#include "trainers/exchange.h"

#include "base/error.h"
#include "base/torch/autograd_node.h"
#include "dist/activity.h"
#include "dist/flat_group.h"
#include "models/nn/checkpointed_call.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

// Axes: n rows of a rank, N rows of all, m the most rows of any, W ranks.

namespace trestle::trainers {
namespace {

namespace autograd = torch::autograd;
using Tensors = std::vector<at::Tensor>;

/// Every rank is here and sees the same, so all may leave in order.
template <class... Args>
void require_everywhere(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition)
    throw dist::AgreedError(ExitCode::usage, fmt::format(format, std::forward<Args>(args)...));
}

void require_outside_segments() {
  require_everywhere(
      !models::nn::inside_checkpointed_segment(),
      "the task exchanges with other ranks inside a checkpointed segment (backward computes a "
      "segment anew, when other ranks are somewhere else). Set train.checkpoint_every = 0, or let "
      "the segment return what is exchanged.");
}

/// What a rank brings to a call and wants of it, as the others are told.
struct Form {
  std::vector<std::int64_t> sizes;
  at::ScalarType dtype = at::kFloat;
  bool needs_gradient = false;
  int wanted_branch = 0;  ///< from_branch

  std::string encode() const {
    dist::Packer packer;
    packer.number(static_cast<std::int64_t>(dtype));
    packer.number(needs_gradient ? 1 : 0);
    packer.number(wanted_branch);
    for (const std::int64_t size : sizes) packer.number(size);
    return packer.take();
  }
  static Form decode(std::string_view bytes) {
    dist::Unpacker unpacker(bytes);
    Form form;
    form.dtype = static_cast<at::ScalarType>(unpacker.number());
    form.needs_gradient = unpacker.number() != 0;
    form.wanted_branch = static_cast<int>(unpacker.number());
    for (std::size_t at = 3; at < bytes.size() / sizeof(std::int64_t); ++at)
      form.sizes.push_back(unpacker.number());
    return form;
  }
  std::string text() const {
    return fmt::format("{} [{}]", c10::toString(dtype), fmt::join(sizes, ", "));
  }
};

/// COLLECTIVE. What every rank brings to this call.
std::vector<Form> forms_of_all(const dist::Communicator& ranks, const at::Tensor& tensor,
                               int wanted_branch = 0) {
  const Form mine{.sizes = tensor.sizes().vec(),
                  .dtype = tensor.scalar_type(),
                  .needs_gradient = at::GradMode::is_enabled() && tensor.requires_grad(),
                  .wanted_branch = wanted_branch};
  std::vector<Form> forms;
  for (const std::string& bytes : ranks.all_gather_bytes(mine.encode()))
    forms.push_back(Form::decode(bytes));
  return forms;
}

/// The rows of all ranks, each padded to as many as any has.
struct Rows {
  std::vector<std::int64_t> of_rank;
  std::int64_t most = 0;
  std::vector<std::int64_t> row_sizes;

  std::vector<std::int64_t> padded(std::size_t ranks) const {
    std::vector<std::int64_t> sizes{most * static_cast<std::int64_t>(ranks)};
    sizes.insert(sizes.end(), row_sizes.begin(), row_sizes.end());
    return sizes;
  }
};

/// Sums every rank's gradients of all rows, and keeps those of its own. Slot 0 of its gradients is
/// that of the rows; slot 1 never holds anything: the node behind it has run, that is all it says.
struct GatherBackward : autograd::Node {
  GatherBackward(const at::Tensor& own, const std::shared_ptr<autograd::Node>& before, Rows all,
                 dist::Collectives& over)
      : rows(std::move(all)), collectives(over), options(own.options()), dtype(own.scalar_type()) {
    autograd::edge_list edges = autograd::collect_next_edges(own);
    edges.emplace_back(before, before ? 1 : 0);
    set_next_edges(std::move(edges));
  }

  Tensors apply(Tensors&& gradients) override {
    const auto ranks = static_cast<std::int64_t>(rows.of_rank.size());
    const auto summed_in = options.dtype(dist::sum_dtype_of(dtype));
    at::Tensor all = at::zeros(rows.padded(rows.of_rank.size()), summed_in);
    std::int64_t begin = 0;
    for (std::int64_t rank = 0; gradients[0].defined() && rank < ranks; ++rank) {
      const std::int64_t count = rows.of_rank[static_cast<std::size_t>(rank)];
      all.narrow(0, rank * rows.most, count).copy_(gradients[0].narrow(0, begin, count));
      begin += count;
    }
    at::Tensor own = at::empty(rows.padded(1), summed_in);
    collectives.reduce_scatter(all, own, dist::ReduceOp::sum, "gather_samples backward").wait();
    const auto mine = static_cast<std::size_t>(collectives.communicator().rank());
    return {own.narrow(0, 0, rows.of_rank[mine]).to(dtype), at::Tensor()};
  }

  Rows rows;
  dist::Collectives& collectives;
  at::TensorOptions options;
  at::ScalarType dtype;
};

/// Hands the loss's gradient on, and sends backward to the last gather.
struct Tie : autograd::Node {
  using Node::Node;
  Tensors apply(Tensors&& gradients) override { return {std::move(gradients[0]), at::Tensor()}; }
};

class LoneExchange : public Exchange {
 public:
  at::Tensor gather_samples(const at::Tensor& rows) override {
    require_outside_segments();
    return rows;
  }
  at::Tensor global_mean(const at::Tensor& rows) override {
    require_outside_segments();
    return rows.detach().to(at::kDouble).mean(0).to(rows.scalar_type());
  }
  at::Tensor from_branch(int branch, const at::Tensor& own) override {
    require_outside_segments();
    require_everywhere(branch == 0, "the task asks for branch {} of 1. Please report it.", branch);
    return own.detach();
  }
};

class RefusedExchange : public Exchange {
 public:
  explicit RefusedExchange(std::string_view task) : task_(task) {}
  at::Tensor gather_samples(const at::Tensor&) override { refuse(); }
  at::Tensor global_mean(const at::Tensor&) override { refuse(); }
  at::Tensor from_branch(int, const at::Tensor&) override { refuse(); }

 private:
  [[noreturn]] void refuse() const {
    throw dist::AgreedError(
        ExitCode::usage,
        fmt::format("task {} exchanges with other ranks, and its exchanges() says that it does not "
                    "(what the run then takes care of is missing). Let it return true.",
                    task_));
  }
  std::string task_;
};

class MeshExchange : public Exchange {
 public:
  explicit MeshExchange(const dist::Mesh& mesh)
      : mesh_(mesh),
        data_(dist::make_collectives(mesh.data(), "exchange")),
        across_(dist::make_collectives(mesh.across(), "exchange")) {}

  at::Tensor gather_samples(const at::Tensor& own) override {
    require_outside_segments();
    const dist::Communicator& ranks = data_->communicator();
    if (ranks.size() == 1) return own;
    const std::vector<Form> forms = forms_of_all(ranks, own);
    const Rows rows = rows_of(forms);

    const at::Tensor values = own.detach().contiguous();
    at::Tensor padded = at::zeros(rows.padded(1), values.options());
    padded.narrow(0, 0, values.size(0)).copy_(values);
    at::Tensor all = at::empty(rows.padded(forms.size()), values.options());
    data_->all_gather(padded, all, "gather_samples").wait();
    Tensors parts;
    for (std::size_t rank = 0; rank < forms.size(); ++rank) {
      parts.push_back(
          all.narrow(0, static_cast<std::int64_t>(rank) * rows.most, rows.of_rank[rank]));
    }
    at::Tensor gathered = at::cat(parts);

    const auto needs_gradient = [](const Form& form) { return form.needs_gradient; };
    if (std::ranges::none_of(forms, needs_gradient)) return gathered;
    const auto node = make_node<GatherBackward>(own, last_, rows, *data_);
    autograd::create_gradient_edge(gathered, node);
    node->add_input_metadata(autograd::Node::undefined_input());
    last_ = node;
    return gathered;
  }

  at::Tensor global_mean(const at::Tensor& own) override {
    require_outside_segments();
    // In fp64, with the number of rows behind the sums: one message.
    const at::Tensor sums = own.detach().to(at::kDouble).sum(0);
    at::Tensor message =
        at::cat({sums.flatten(), at::full({1}, static_cast<double>(own.size(0)), at::kDouble)});
    data_->all_reduce(message, dist::ReduceOp::sum, "global_mean").wait();
    const std::int64_t last = message.numel() - 1;
    return (message.narrow(0, 0, last) / message[last]).view(sums.sizes()).to(own.scalar_type());
  }

  at::Tensor from_branch(int branch, const at::Tensor& own) override {
    require_outside_segments();
    require_everywhere(branch >= 0 && branch < mesh_.branches(),
                       "the task asks for branch {} of {}. Please report it.", branch,
                       mesh_.branches());
    if (mesh_.branches() == 1) return own.detach();
    const std::vector<Form> forms = forms_of_all(across_->communicator(), own, branch);
    const at::Tensor mine = own.detach().contiguous();
    const int here = mesh_.branch();
    std::vector<dist::Work> works;
    for (int other = 0; other < mesh_.branches(); ++other) {
      if (other != here && forms[static_cast<std::size_t>(other)].wanted_branch == here)
        works.push_back(across_->send(mine, other, "from_branch"));
    }
    at::Tensor values = mine;
    if (branch != here) {
      const Form& form = forms[static_cast<std::size_t>(branch)];
      values = at::empty(form.sizes, own.options().dtype(form.dtype));
      works.push_back(across_->recv(values, branch, "from_branch"));
    }
    for (dist::Work& work : works) work.wait();
    return values;
  }

  void begin() override { last_.reset(); }

  at::Tensor tie(const at::Tensor& loss) override {
    if (!last_) return loss;
    const auto node = make_node<Tie>();
    autograd::edge_list edges;
    if (loss.defined())
      edges = autograd::collect_next_edges(loss);
    else
      edges.emplace_back();
    edges.emplace_back(std::exchange(last_, nullptr), 1);
    node->set_next_edges(std::move(edges));
    at::Tensor tied = loss.defined() ? loss.detach() : at::zeros({}, at::kDouble);
    autograd::create_gradient_edge(tied, node);
    return tied;
  }

 private:
  static Rows rows_of(const std::vector<Form>& forms) {
    Rows rows;
    for (const Form& form : forms) {
      require_everywhere(!form.sizes.empty() && form.dtype == forms[0].dtype &&
                             std::ranges::equal(form.sizes.begin() + 1, form.sizes.end(),
                                                forms[0].sizes.begin() + 1, forms[0].sizes.end()),
                         "gather_samples got {} from one rank and {} from another (only the number "
                         "of rows may differ). Please report it with the recipe.",
                         forms[0].text(), form.text());
      rows.of_rank.push_back(form.sizes[0]);
      rows.most = std::max(rows.most, form.sizes[0]);
    }
    rows.row_sizes.assign(forms[0].sizes.begin() + 1, forms[0].sizes.end());
    return rows;
  }

  dist::Mesh mesh_;
  std::unique_ptr<dist::Collectives> data_, across_;
  /// The last gather of this loss. Each leads to the one before it, so that backward takes them in
  /// the opposite order on every rank.
  std::shared_ptr<autograd::Node> last_;
};

}  // namespace

Exchange& lone_exchange() {
  static LoneExchange exchange;
  return exchange;
}

std::unique_ptr<Exchange> make_exchange(const dist::Mesh& mesh) {
  if (mesh.world().size() == 1) return std::make_unique<LoneExchange>();
  return std::make_unique<MeshExchange>(mesh);
}

std::unique_ptr<Exchange> refuse_exchange(std::string_view task) {
  return std::make_unique<RefusedExchange>(task);
}

}  // namespace trestle::trainers
