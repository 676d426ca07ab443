// Two objectives that alternate: a generator of points in the plane against a discriminator. Each
// has a parameter group of its own, and with it buckets, norm, optimizer and learning rate.
#include "trainers/task.h"

#include "data/loader.h"
#include "trainers/options.h"

#include <ATen/ATen.h>

#include <algorithm>

// Axes: b batch, the last of size 2 or kHidden.

namespace trestle::trainers::tiny_gan {
namespace {

constexpr std::int64_t kHidden = 8;

struct GanOptions {
  std::int64_t samples = 64;
  std::int64_t generator_first = 0, generator_every = 1;
  std::int64_t discriminator_first = 0, discriminator_every = 1;

  void describe(configs::Fields& f) {
    f.field("samples", samples, {.help = "size of the data set", .min = 1});
    const auto rhythm = [&](std::string_view first_key, std::int64_t& first,
                            std::string_view every_key, std::int64_t& every) {
      f.field(first_key, first, {.help = "first step that trains it", .unit = "steps", .min = 0});
      f.field(every_key, every,
              {.help = "trained in every n-th step from there", .unit = "steps", .min = 1});
    };
    rhythm("generator_first", generator_first, "generator_every", generator_every);
    rhythm("discriminator_first", discriminator_first, "discriminator_every", discriminator_every);
  }
};

/// Points around (2, -1).
class Points : public data::Dataset {
 public:
  explicit Points(std::int64_t size) : size_(size) {}
  std::int64_t size() const override { return size_; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    std::vector<Position> rows;
    for (const auto id : ids) rows.push_back({id});
    const at::Tensor spread = 0.5 * Draws(99).normal(rows, Purpose("point"), {2}, at::kDouble);
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors = {{"point", spread + at::tensor({2.0, -1.0}, at::kDouble)}};
    return batch;
  }

 private:
  std::int64_t size_;
};

class TinyGan : public Task {
 public:
  TinyGan(const GanOptions& options, Materialise materialise)
      : options_(options),
        points_(options.samples),
        generator_(parameter_options(materialise), Draws(1)),
        discriminator_(parameter_options(materialise), Draws(2)) {
    using models::nn::Init;
    scale_ = generator_.add("generator.weight", {2, 2}, Init::normal(1));
    shift_ = generator_.add("generator.bias", {2}, Init::zeros());
    hidden_ = discriminator_.add("discriminator.hidden.weight", {2, kHidden}, Init::normal(1));
    bias_ = discriminator_.add("discriminator.hidden.bias", {kHidden}, Init::zeros());
    out_ = discriminator_.add("discriminator.out.weight", {kHidden}, Init::normal(1));
  }

  std::vector<ParameterGroup> groups() override {
    return {{.name = "generator", .parameters = generator_.all()},
            {.name = "discriminator", .parameters = discriminator_.all()}};
  }
  std::vector<Objective> objectives() override {
    return {{.name = "generator",
             .groups = {"generator"},
             .first = options_.generator_first,
             .every = options_.generator_every},
            {.name = "discriminator",
             .groups = {"discriminator"},
             .first = options_.discriminator_first,
             .every = options_.discriminator_every}};
  }
  const data::Dataset& dataset(Split) override { return points_; }

  LossReport loss(const Objective& objective, const data::Batch& batch,
                  const StepContext& context) override {
    const at::Tensor noise_b2 =
        context.draws.normal(batch.positions, Purpose("latent"), {2}, at::kDouble);
    // No detach: the leaves of the other objective get no gradient.
    const at::Tensor fake_b2 = noise_b2.mm(scale_) + shift_;
    if (objective.name == "generator")
      return {.terms = {{.name = "fools", .per_sample = at::softplus(-judged_real(fake_b2))}}};
    const at::Tensor real_b = judged_real(batch.tensor("point")), fake_b = judged_real(fake_b2);
    Metrics metrics;
    metrics.mean("right", at::cat({real_b > 0, fake_b < 0}));
    metrics.max("surest", at::cat({real_b, fake_b}).abs());
    return {.terms = {{.name = "real", .per_sample = at::softplus(-real_b)},
                      {.name = "fake", .per_sample = at::softplus(fake_b)}},
            .metrics = std::move(metrics)};
  }
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws&) override {
    // One pixel: where the generator's points lie, red to the right and green upwards.
    const auto shade = [&](std::int64_t axis) {
      const double at = 128 + 40 * shift_[axis].item<double>();
      return static_cast<std::uint8_t>(std::clamp(at, 0.0, 255.0));
    };
    return std::vector<formats::Picture>(request.ids.size(),
                                         {.width = 1, .height = 1, .rgb = {shade(0), shade(1), 0}});
  }

 private:
  static at::TensorOptions parameter_options(Materialise materialise) {
    return at::TensorOptions()
        .dtype(at::kDouble)
        .device(materialise == Materialise::meta ? at::kMeta : at::kCPU);
  }
  at::Tensor judged_real(const at::Tensor& points_b2) const {
    return at::tanh(points_b2.mm(hidden_) + bias_).mv(out_);
  }

  GanOptions options_;
  Points points_;
  models::nn::Parameters generator_, discriminator_;
  at::Tensor scale_, shift_, hidden_, bias_, out_;
};

}  // namespace

const TaskKind& task_kind() {
  static const TaskKind kind{
      .name = "tiny_gan",
      .summary = "a generator of points against a discriminator",
      .describe =
          [](configs::Schema& schema) {
            schema.section<GanOptions>("task");
            schema.section<data::LoaderOptions>("data");
            describe_group(schema, "generator");
            describe_group(schema, "discriminator");
          },
      .make = [](const configs::Recipe& recipe, Materialise materialise) -> std::unique_ptr<Task> {
        return std::make_unique<TinyGan>(recipe.section<GanOptions>("task"), materialise);
      }};
  return kind;
}

}  // namespace trestle::trainers::tiny_gan
