#include "trainers/optim/ema.h"

#include "trainers/optim/ema_decay.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>

namespace trestle::trainers {

namespace {

/// A key as TOML writes it without quotes, so that [ema.<name>] is one section.
bool is_name(const std::string& text) {
  const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; };
  return !text.empty() && std::ranges::all_of(text, plain);
}

std::string section_of(const std::string& name) { return "ema." + name; }

}  // namespace

void AverageOptions::describe(configs::Fields& f) {
  f.field("enabled", enabled,
          {.help = "keep moving averages of the weights and use them for pictures and evaluation"});
  f.field("more", more,
          {.help = "names of further averages; [ema.<name>] says for one what [ema] says for all",
           .needs = {"enabled", true}});
}

void EmaOptions::describe(configs::Fields& f) {
  f.field("schedule", schedule,
          {.help = "how the decay of update n rises to decay: ramp is (1 + n) / (10 + n), power is "
                   "1 - (1 + n / inv_gamma)^-power (both as in diffusers' EMAModel)",
           .choices = {"ramp", "power", "constant"}});
  f.field("decay", decay,
          {.help = "where the decay ends; with \"constant\" always",
           .min = 0,
           .below = 1,
           .needs = {"ema.enabled", true}});
  f.field("min_decay", min_decay,
          {.help = "least decay of ramp and power, after the first update",
           .min = 0,
           .below = 1,
           .needs = {"ema.enabled", true}});
  f.field("inv_gamma", inv_gamma,
          {.help = "of schedule \"power\"", .above = 0, .needs = {"schedule", "power"}});
  f.field("power", power,
          {.help = "of schedule \"power\"", .above = 0, .needs = {"schedule", "power"}});
}

std::vector<NamedAverage> averages_of(const configs::Recipe& recipe) {
  const auto kept = recipe.section<AverageOptions>("ema");
  std::vector<NamedAverage> averages;
  if (!kept.enabled) return averages;
  averages.push_back({"ema", recipe.section<EmaOptions>("ema")});
  for (const std::string& name : kept.more)
    averages.push_back({section_of(name), recipe.overlay<EmaOptions>(section_of(name), "ema")});
  return averages;
}

void describe_averages(configs::Schema& schema) {
  schema.section<AverageOptions>("ema");
  schema.section<EmaOptions>("ema");
}

void describe_averages(configs::Schema& schema, const configs::Recipe& recipe) {
  describe_averages(schema);
  for (const std::string& name : recipe.section<AverageOptions>("ema").more) {
    if (!is_name(name) || schema.has_section(section_of(name))) {
      throw recipe.error_at(
          "ema.more",
          fmt::format("ema.more names an average \"{}\" ({}). Give each a name of its own, of "
                      "letters, digits, _ and -.",
                      name, is_name(name) ? "twice" : "[ema.<name>] cannot be a section then"));
    }
    schema.overlay<EmaOptions>(section_of(name), "ema");
  }
}

double EmaOptions::decay_after(std::int64_t updates) const {
  const EmaSchedule kind = schedule == "constant" ? EmaSchedule::constant
                           : schedule == "power"  ? EmaSchedule::power
                                                  : EmaSchedule::ramp;
  return ema_decay({.schedule = kind,
                    .decay = decay,
                    .min_decay = min_decay,
                    .inv_gamma = inv_gamma,
                    .power = power},
                   updates);
}

Ema::Ema(std::vector<models::nn::NamedParameter> parameters, const EmaOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const auto& parameter : parameters_) average_.push_back(parameter.tensor.detach().clone());
}

void Ema::update() {
  const double decay = options_.decay_after(count_++);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    average_[i].lerp_(parameters_[i].tensor.detach(), 1.0 - decay);
  }
}

void Ema::state(checkpoint::Scope& counts, checkpoint::Scope& planes) {
  counts.number("count", count_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    planes.tensor(parameters_[i].name, average_[i]);
  }
}

}  // namespace trestle::trainers
