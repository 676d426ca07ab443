// A pivot: first only the rows of new tokens are trained in a table whose old rows stay as they
// were, bit for bit; from task.pivot on the table rests and an adapter is trained. Prior samples,
// which do not use the new tokens, are a kind of their own. Data are functions of the sample's id
// that any other program can compute, too.
#include "trainers/task.h"

#include "data/loader.h"
#include "trainers/options.h"

#include <ATen/ATen.h>

#include <algorithm>

// Axes: v rows of the table, b batch, l tokens of a caption, d width.

namespace trestle::trainers::new_tokens {
namespace {

constexpr std::int64_t kWidth = 6, kOldTokens = 20;

struct PivotOptions {
  std::int64_t samples = 24;
  std::int64_t prior_every = 3;
  double prior_weight = 0.5;
  std::int64_t tokens = 2;
  std::int64_t pivot = 6;

  void describe(configs::Fields& f) {
    f.field("samples", samples, {.help = "size of the data set", .min = 1});
    f.field("prior_every", prior_every, {.help = "every n-th sample is a prior one", .min = 2});
    f.field("prior_weight", prior_weight, {.help = "of the prior samples' loss", .min = 0});
    f.field("tokens", tokens, {.help = "new tokens, behind the old ones in the table", .min = 1});
    f.field("pivot", pivot,
            {.help = "the new tokens are trained before this step, the adapter from it on",
             .unit = "steps",
             .min = 1});
  }
};

class Captions : public data::Dataset {
 public:
  explicit Captions(const PivotOptions& options) : options_(options) {}
  std::int64_t size() const override { return options_.samples; }
  std::string_view kind(data::SampleId id) const override {
    return is_prior(id) ? "prior" : "instance";
  }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    const auto count = static_cast<std::int64_t>(ids.size());
    at::Tensor tokens_bl = at::empty({count, 2}, at::kLong);
    at::Tensor priors_b = at::empty({count}, at::kBool);
    at::Tensor wanted_bd = at::empty({count, kWidth}, at::kDouble);
    const at::Tensor axis_d = at::arange(kWidth, at::kDouble);
    for (std::int64_t i = 0; i < count; ++i) {
      const data::SampleId id = ids[static_cast<std::size_t>(i)];
      const std::int64_t second =
          is_prior(id) ? (3 * id + 1) % kOldTokens : kOldTokens + id % options_.tokens;
      tokens_bl[i].copy_(at::tensor({id % kOldTokens, second}, at::kLong));
      priors_b[i].fill_(is_prior(id));
      wanted_bd[i].copy_(at::sin(1.3 * double(id) + axis_d));
    }
    batch.tensors = {{"tokens", tokens_bl}, {"is_prior", priors_b}, {"wanted", wanted_bd}};
    return batch;
  }

 private:
  bool is_prior(data::SampleId id) const {
    return id % options_.prior_every == options_.prior_every - 1;
  }
  PivotOptions options_;
};

class NewTokens : public Task {
 public:
  NewTokens(const PivotOptions& options, Materialise materialise)
      : options_(options),
        captions_(options),
        parameters_(at::TensorOptions()
                        .dtype(at::kFloat)
                        .device(materialise == Materialise::meta ? at::kMeta : at::kCPU),
                    Draws(1)) {
    table_vd_ = parameters_.add("token_embedding.weight", {kOldTokens + options.tokens, kWidth},
                                models::nn::Init::normal(1));
    adapter_dd_ = parameters_.add("adapter.weight", {kWidth, kWidth}, models::nn::Init::zeros());
    old_rows_vd_ = table_vd_.detach().narrow(0, 0, kOldTokens).clone();
  }

  std::vector<ParameterGroup> groups() override {
    const auto all = parameters_.all();
    return {{.name = "new_tokens",
             .parameters = {all[0]},
             .active = {.begin = 0, .end = options_.pivot},
             .project = [old = old_rows_vd_](
                            const std::string&,
                            at::Tensor& master) { master.narrow(0, 0, kOldTokens).copy_(old); }},
            {.name = "adapter", .parameters = {all[1]}, .active = {.begin = options_.pivot}}};
  }
  const data::Dataset& dataset(Split) override { return captions_; }

  LossReport loss(const Objective&, const data::Batch& batch, const StepContext&) override {
    const at::Tensor text_bd = at::embedding(table_vd_, batch.tensor("tokens")).mean(1);
    const at::Tensor given_bd = text_bd + text_bd.mm(adapter_dd_);
    const at::Tensor miss_b = (given_bd - batch.tensor("wanted").to(at::kFloat)).square().sum(1);
    const at::Tensor is_prior = batch.tensor("is_prior");
    return {
        .terms = {
            {.name = "instance", .per_sample = miss_b.masked_select(~is_prior), .kind = "instance"},
            {.name = "prior",
             .per_sample = options_.prior_weight * miss_b.masked_select(is_prior),
             .kind = "prior"}}};
  }
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws&) override {
    // One pixel: how far the first new token has come.
    const double length = table_vd_[kOldTokens].norm().item<double>();
    const auto red = static_cast<std::uint8_t>(std::clamp(40 * length, 0.0, 255.0));
    return std::vector<formats::Picture>(request.ids.size(),
                                         {.width = 1, .height = 1, .rgb = {red, 0, 0}});
  }

 private:
  PivotOptions options_;
  Captions captions_;
  models::nn::Parameters parameters_;
  at::Tensor table_vd_, adapter_dd_, old_rows_vd_;
};

}  // namespace

const TaskKind& task_kind() {
  static const TaskKind kind{
      .name = "new_tokens",
      .summary = "new rows of a token table, then an adapter",
      .describe =
          [](configs::Schema& schema) {
            schema.section<PivotOptions>("task");
            schema.section<data::LoaderOptions>("data");
            describe_group(schema, "new_tokens");
            describe_group(schema, "adapter");
          },
      .make = [](const configs::Recipe& recipe, Materialise materialise) -> std::unique_ptr<Task> {
        return std::make_unique<NewTokens>(recipe.section<PivotOptions>("task"), materialise);
      }};
  return kind;
}

}  // namespace trestle::trainers::new_tokens
