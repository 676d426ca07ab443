#include "base/error.h"
#include "configs/nearest.h"
#include "launch/commands/command.h"
#include "trainers/options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace trestle::launch {
namespace {

using configs::Explained;

struct ExplainArguments {
  RecipeArguments recipe;
  std::string key;
  bool json = false;
  bool reference = false;
};

nlohmann::ordered_json to_json(const Explained& e) {
  return {{"key", e.key},
          {"value", e.value},
          {"source", e.source},
          {"default", e.default_value},
          {"type", e.type},
          {"unit", e.unit},
          {"range", e.range},
          {"needs", e.needs},
          {"has_effect", e.has_effect},
          {"may_change", e.may_change},
          {"help", e.help}};
}

std::string needs_text(const Explained& e) {
  return e.has_effect ? e.needs : e.needs + ", which is not so";
}

void print_one(const Explained& e) {
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
  line("needs", needs_text(e));
  line("resume", e.may_change ? "may change" : "must stay (it decides what is computed)");
}

/// Two lines a key: what it is now, in columns, and what it means.
void print_all(const std::vector<Explained>& chosen) {
  constexpr std::size_t kWidest = 30;  // a longer value shifts its own line only
  std::size_t key = 3, value = 5, fallback = 7;
  for (const auto& e : chosen) {
    key = std::max(key, e.key.size());
    value = std::max(value, std::min(kWidest, e.value.size()));
    fallback = std::max(fallback, std::min(kWidest, e.default_value.size()));
  }
  const auto row = [&](std::string_view a, std::string_view b, std::string_view c,
                       std::string_view d, std::string_view e) {
    fmt::print("{:<{}}  {:<{}}  {:<{}}  {:<10}  {}\n", a, key, b, value, c, fallback, d, e);
  };
  row("KEY", "VALUE", "DEFAULT", "RESUME", "SOURCE");
  for (const auto& e : chosen) {
    row(e.key, e.value, e.default_value, e.may_change ? "may change" : "", e.source);
    std::vector<std::string> takes = {e.type};
    if (!e.range.empty()) takes.push_back(e.range);
    if (!e.unit.empty()) takes.push_back(e.unit);
    if (!e.needs.empty()) takes.push_back("needs " + needs_text(e));
    fmt::print("    {} ({})\n", e.help, fmt::join(takes, "; "));
  }
}

/// A key, or all keys of a section.
std::vector<Explained> choose(std::vector<Explained> all, const std::string& key,
                              const std::string& recipe) {
  if (key.empty()) return all;
  std::vector<std::string> names;
  for (const auto& e : all) names.push_back(e.key);
  std::erase_if(all, [&](const auto& e) { return e.key != key && !e.key.starts_with(key + "."); });
  if (!all.empty()) return all;
  const std::string near = configs::nearest(key, names);
  fail(ExitCode::usage, "{} has no key \"{}\" (no option has that name). {}", recipe, key,
       near.empty() ? "Leave the key out to see all." : fmt::format("Did you mean {}?", near));
}

int explain(const ExplainArguments& arguments) {
  if (arguments.reference) {
    fmt::print("{}", trainers::reference_page());
    return 0;
  }
  TRESTLE_REQUIRE(!arguments.recipe.file.empty(),
                  "explain has no recipe (it shows where each value was said). Name one, or give "
                  "--reference for all options of all tasks.");
  const configs::Recipe recipe = arguments.recipe.load();
  const auto chosen =
      choose(recipe.explain(trainers::schema_of(recipe)), arguments.key, recipe.name());
  if (arguments.json) {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const auto& e : chosen) all.push_back(to_json(e));
    fmt::print("{}\n", all.dump(2));
  } else if (chosen.size() == 1) {
    print_one(chosen.front());
  } else {
    print_all(chosen);
  }
  return 0;
}

}  // namespace

void add_explain(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "explain",
      "show every option: value, where it was set, default, unit, range, meaning, and whether it "
      "may change when a run is resumed");
  auto arguments = std::make_shared<ExplainArguments>();
  arguments->recipe.add_to(*command);
  auto* recipe = command->get_option("recipe")->required(false);
  command->add_option("key", arguments->key,
                      "one key or section (train.steps, optim); default: all");
  command->add_flag("--json", arguments->json, "for programs");
  command
      ->add_flag("--reference", arguments->reference,
                 "print docs/recipe_reference.md: the options of all tasks, without a recipe")
      ->excludes(recipe);
  command->callback([arguments, &action] { action = [arguments] { return explain(*arguments); }; });
}

}  // namespace trestle::launch
