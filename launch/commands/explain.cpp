#include "base/error.h"
#include "configs/nearest.h"
#include "launch/commands/command.h"
#include "trainers/options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace trestle::launch {
namespace {

nlohmann::ordered_json to_json(const configs::Explained& e) {
  return {{"key", e.key},   {"value", e.value}, {"source", e.source}, {"default", e.default_value},
          {"type", e.type}, {"unit", e.unit},   {"range", e.range},   {"help", e.help}};
}

void print_one(const configs::Explained& e) {
  fmt::print("{}\n  {}\n", e.key, e.help);
  const auto line = [](const char* label, const std::string& text) {
    if (!text.empty()) fmt::print("  {:<8} {}\n", label, text);
  };
  line("value", e.value);
  line("source", e.source);
  line("default", e.default_value);
  line("type", e.type);
  line("unit", e.unit);
  line("range", e.range);
}

int explain(const RecipeArguments& arguments, const std::string& key, bool json) {
  const configs::Recipe recipe = arguments.load();
  const configs::Schema schema = trainers::schema_of(recipe);
  recipe.check(schema);
  std::vector<configs::Explained> chosen;
  std::vector<std::string> names;
  for (const auto& e : recipe.explain(schema)) {
    names.push_back(e.key);
    if (key.empty() || e.key == key || e.key.starts_with(key + ".")) chosen.push_back(e);
  }
  TRESTLE_REQUIRE(!chosen.empty(),
                  "{} has no key \"{}\" (no option has that name). Did you mean {}?", recipe.name(),
                  key, configs::nearest(key, names));
  if (json) {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const auto& e : chosen) all.push_back(to_json(e));
    fmt::print("{}\n", all.dump(2));
  } else if (chosen.size() == 1) {
    print_one(chosen.front());
  } else {
    std::size_t key_width = 0, value_width = 0;
    for (const auto& e : chosen) {
      key_width = std::max(key_width, e.key.size());
      value_width = std::max(value_width, e.value.size());
    }
    value_width = std::min<std::size_t>(value_width, 32);
    for (const auto& e : chosen) {
      fmt::print("{:<{}}  {:<{}}  {}{}\n", e.key, key_width, e.value, value_width, e.help,
                 e.source == "default" ? "" : fmt::format("  [{}]", e.source));
    }
  }
  return 0;
}

}  // namespace

void add_explain(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "explain", "show every option: value, where it was set, default, unit, range, meaning");
  auto recipe = std::make_shared<RecipeArguments>();
  auto key = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  recipe->add_to(*command);
  command->add_option("key", *key, "one key or section (train.steps, optim); default: all");
  command->add_flag("--json", *json, "for programs");
  command->callback([recipe, key, json, &action] {
    action = [recipe, key, json] { return explain(*recipe, *key, *json); };
  });
}

}  // namespace trestle::launch
