#include "base/error.h"
#include "checkpoint/compare.h"
#include "checkpoint/find.h"
#include "checkpoint/load.h"
#include "checkpoint/manifest.h"
#include "checkpoint/verify.h"
#include "configs/differences.h"
#include "configs/nearest.h"
#include "launch/commands/command.h"
#include "launch/commands/inspect_weights.h"
#include "launch/commands/print_tensor.h"
#include "trainers/options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace trestle::launch {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// What `inspect --diff` exits with when the states differ, as diff and cmp do.
constexpr int kDiffers = 1;

/// Values that are measured, so that two runs of the same never have the same.
constexpr std::string_view kMeasured[] = {"trainer/wall_s"};

struct InspectArguments {
  std::string checkpoint, tensor, other, variant;
  bool verify = false, json = false;
};

/// A checkpoint's folder as it is; for a run directory, its newest complete checkpoint.
fs::path find_checkpoint(const std::string& given) {
  TRESTLE_REQUIRE(fs::exists(given),
                  "\"{}\" does not exist (a checkpoint's folder or a run directory is expected). "
                  "Check the path.",
                  given);
  const auto folder = checkpoint::folder_of_checkpoints(given);
  if (!folder) return given;
  const auto newest = checkpoint::newest(*folder);
  TRESTLE_REQUIRE_AS(checkpoint, newest, "No checkpoint in {} is complete. Name one of them.",
                     folder->string());
  return *newest;
}

std::string text_of(const checkpoint::Value& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

ordered_json json_of(const checkpoint::Value& value) {
  if (const auto* number = std::get_if<double>(&value)) return json_of_number(*number);
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return *integer;
  return std::get<std::string>(value);
}

int verify(const fs::path& folder, bool json) {
  const auto damages = checkpoint::verify(folder);
  if (json) {
    ordered_json object = {{"checkpoint", folder.string()},
                           {"whole", damages.empty()},
                           {"damages", ordered_json::array()}};
    for (const auto& damage : damages) {
      object["damages"].push_back({{"file", damage.file},
                                   {"begin", damage.begin},
                                   {"end", damage.end},
                                   {"what", damage.what}});
    }
    fmt::print("{}\n", object.dump(2));
  } else if (damages.empty()) {
    fmt::print("{}: every byte has its digest\n", folder.string());
  } else {
    for (const auto& damage : damages) {
      fmt::print("damaged: {} bytes {} to {}: {}\n", damage.file, damage.begin, damage.end,
                 damage.what);
    }
  }
  return damages.empty() ? 0 : static_cast<int>(ExitCode::checkpoint);
}

void print_tensor(const fs::path& folder, const checkpoint::Manifest& manifest,
                  const std::string& name, bool json) {
  const auto found = manifest.tensors.find(name);
  if (found == manifest.tensors.end()) {
    std::vector<std::string> names;
    for (const auto& [known, record] : manifest.tensors) names.push_back(known);
    fail(ExitCode::usage, "the checkpoint has no tensor \"{}\" (it has {}). Did you mean {}?", name,
         names.size(), configs::nearest(name, names));
  }
  const auto& record = found->second;
  const ShownTensor shown{.name = name,
                          .shape = record.shape,
                          .dtype = record.dtype,
                          .summary = checkpoint::summarise(folder, manifest, name)};
  if (json) {
    ordered_json object = json_of_tensor(shown);
    object["pieces"] = ordered_json::array();
    for (const auto& piece : record.pieces) {
      object["pieces"].push_back({{"file", manifest.files[piece.file].name},
                                  {"dataset", piece.dataset},
                                  {"offset", piece.offset},
                                  {"bytes", piece.bytes},
                                  {"begin", piece.begin},
                                  {"end", piece.end}});
    }
    fmt::print("{}\n", object.dump(2));
    return;
  }
  print(shown);
  for (const auto& piece : record.pieces) {
    fmt::print("  elements {} to {}: {} bytes at offset {} of {} (dataset {})\n", piece.begin,
               piece.end, piece.bytes, piece.offset, manifest.files[piece.file].name,
               piece.dataset);
  }
}

void print_summary(const fs::path& folder, const checkpoint::Manifest& manifest, bool json) {
  std::uint64_t bytes = 0;
  for (const auto& file : manifest.files) bytes += file.bytes;
  if (json) {
    ordered_json object = {{"checkpoint", folder.string()},
                           {"step", manifest.step},
                           {"world", manifest.world},
                           {"epoch", manifest.epoch},
                           {"bytes", bytes},
                           {"recipe_hash", manifest.recipe_hash},
                           {"versions", manifest.versions}};
    if (const auto& topology = manifest.topology) {
      object["topology"] = {{"host_of_rank", topology->host_of_rank}, {"levels", topology->levels}};
    }
    for (const auto& [name, value] : manifest.values) object["values"][name] = json_of(value);
    for (const auto& file : manifest.files) {
      object["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
    }
    for (const auto& [name, record] : manifest.tensors) {
      object["tensors"][name] = {{"shape", record.shape},
                                 {"dtype", formats::element_name(record.dtype)},
                                 {"pieces", record.pieces.size()}};
    }
    fmt::print("{}\n", object.dump(2));
    return;
  }
  fmt::print("{}\n  step {}, written by {} ranks, {} tensors, {:.1f} MB\n", folder.string(),
             manifest.step, manifest.world, manifest.tensors.size(), double(bytes) / 1e6);
  if (const auto& topology = manifest.topology) {
    fmt::print("  {} hosts, gradients summed in {}\n", std::ranges::max(topology->host_of_rank) + 1,
               topology->levels == 2 ? "two levels" : "one level");
  }
  if (manifest.epoch != 0) fmt::print("  epoch {} of its run directory\n", manifest.epoch);
  for (const auto& [name, version] : manifest.versions) fmt::print("  {} {}\n", name, version);
  for (const auto& file : manifest.files) fmt::print("  {} {} bytes\n", file.name, file.bytes);
  for (const auto& [name, value] : manifest.values) fmt::print("  {} = {}\n", name, text_of(value));
}

/// What the recipes say differently; as much as can be said of a task that is not in this program.
std::vector<configs::RecipeDifference> recipe_differences(const checkpoint::Manifest& a,
                                                          const checkpoint::Manifest& b) {
  configs::Schema schema;
  try {
    schema = trainers::schema_of(configs::Recipe::from_text(a.recipe_toml, "A's recipe"));
  } catch (const Error&) {
  }
  return configs::differences(a.recipe_toml, b.recipe_toml, schema);
}

std::string layout_of(const checkpoint::Manifest& manifest, const std::string& name) {
  const auto& record = manifest.tensors.at(name);
  return fmt::format("{} [{}]", formats::element_name(record.dtype), fmt::join(record.shape, ", "));
}

using Difference = checkpoint::TensorDifference;

ordered_json diff_json(const fs::path& a, const fs::path& b, const checkpoint::Manifest& in_a,
                       const checkpoint::Manifest& in_b, const checkpoint::Comparison& comparison,
                       bool same) {
  ordered_json object = {{"a", a.string()},
                         {"b", b.string()},
                         {"same", same},
                         {"equal_tensors", comparison.equal_tensors},
                         {"equal_values", comparison.equal_values},
                         {"tensors", ordered_json::object()},
                         {"values", ordered_json::object()},
                         {"recipe", ordered_json::object()}};
  for (const auto& d : comparison.tensors) {
    ordered_json& shown = object["tensors"][d.name];
    if (d.kind != Difference::Kind::only_in_b) shown["a"] = layout_of(in_a, d.name);
    if (d.kind != Difference::Kind::only_in_a) shown["b"] = layout_of(in_b, d.name);
    if (d.kind != Difference::Kind::elements) continue;
    shown["elements"] = d.elements;
    shown["unequal"] = d.unequal;
    shown["not_finite"] = d.not_finite;
    shown["max_abs"] = d.max_abs;
    shown["max_rel"] = d.max_rel;
  }
  for (const auto& d : comparison.values) {
    object["values"][d.name] = {{"a", d.a ? json_of(*d.a) : ordered_json()},
                                {"b", d.b ? json_of(*d.b) : ordered_json()}};
  }
  for (const auto& d : recipe_differences(in_a, in_b))
    object["recipe"][d.name] = {{"a", d.before}, {"b", d.now}};
  return object;
}

void print_diff(const checkpoint::Manifest& in_a, const checkpoint::Manifest& in_b,
                const checkpoint::Comparison& comparison) {
  for (const auto& d : comparison.tensors) {
    switch (d.kind) {
      case Difference::Kind::only_in_a:
        fmt::print("tensor {}: only in A ({})\n", d.name, layout_of(in_a, d.name));
        break;
      case Difference::Kind::only_in_b:
        fmt::print("tensor {}: only in B ({})\n", d.name, layout_of(in_b, d.name));
        break;
      case Difference::Kind::shape_or_dtype:
        fmt::print("tensor {}: {} in A, {} in B\n", d.name, layout_of(in_a, d.name),
                   layout_of(in_b, d.name));
        break;
      case Difference::Kind::elements:
        fmt::print(
            "tensor {}: {} of {} elements have other bits, |a - b| up to {:.3g}, relative "
            "{:.3g}{}\n",
            d.name, d.unequal, d.elements, d.max_abs, d.max_rel,
            d.not_finite > 0 ? fmt::format(", {} not finite", d.not_finite) : "");
        break;
    }
  }
  const auto shown = [](const std::optional<checkpoint::Value>& value) {
    return value ? text_of(*value) : std::string("not there");
  };
  for (const auto& d : comparison.values)
    fmt::print("value {}: {} in A, {} in B\n", d.name, shown(d.a), shown(d.b));
  for (const auto& d : recipe_differences(in_a, in_b)) {
    const auto said = [](const std::string& value) { return value.empty() ? "unknown" : value; };
    fmt::print("recipe {}: {} in A, {} in B\n", d.name, said(d.before), said(d.now));
  }
  fmt::print("{} tensors and {} values are the same, {} and {} are not\n", comparison.equal_tensors,
             comparison.equal_values, comparison.tensors.size(), comparison.values.size());
}

int diff(const fs::path& a, const fs::path& b, bool json) {
  const auto in_a = checkpoint::read_manifest(a), in_b = checkpoint::read_manifest(b);
  const auto comparison = checkpoint::compare({a, in_a}, {b, in_b});
  const bool same =
      comparison.tensors.empty() && std::ranges::all_of(comparison.values, [](const auto& d) {
        return std::ranges::count(kMeasured, d.name) > 0;
      });
  if (json)
    fmt::print("{}\n", diff_json(a, b, in_a, in_b, comparison, same).dump(2));
  else
    print_diff(in_a, in_b, comparison);
  return same ? 0 : kDiffers;
}

int inspect(const InspectArguments& arguments) {
  if (is_weights(arguments.checkpoint)) {
    TRESTLE_REQUIRE(
        !arguments.verify && arguments.other.empty(),
        "\"{}\" holds weights (--verify and --diff are for checkpoints: files of weights "
        "have no digests). Leave them out.",
        arguments.checkpoint);
    inspect_weights(arguments.checkpoint, arguments.variant, arguments.tensor, arguments.json);
    return 0;
  }
  TRESTLE_REQUIRE(arguments.variant.empty(),
                  "--variant {} is for folders of weights (\"{}\" is none). Leave it out.",
                  arguments.variant, arguments.checkpoint);
  const fs::path folder = find_checkpoint(arguments.checkpoint);
  if (arguments.verify) return verify(folder, arguments.json);
  if (!arguments.other.empty())
    return diff(folder, find_checkpoint(arguments.other), arguments.json);
  const auto manifest = checkpoint::read_manifest(folder);
  if (arguments.tensor.empty())
    print_summary(folder, manifest, arguments.json);
  else
    print_tensor(folder, manifest, arguments.tensor, arguments.json);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "inspect",
      "show what a checkpoint or a file of weights holds, whether a checkpoint is whole, "
      "and how two differ");
  auto arguments = std::make_shared<InspectArguments>();
  command
      ->add_option(
          "checkpoint", arguments->checkpoint,
          "a folder such as runs/quickstart/checkpoints/step-00000100, or a run directory "
          "(its newest); or weights: a .safetensors, .bin or .pt file, an index of shards, or "
          "their folder")
      ->required()
      ->type_name("CHECKPOINT");
  auto* tensor = command
                     ->add_option("--tensor", arguments->tensor,
                                  "one tensor's numbers, and where its bytes lie")
                     ->type_name("NAME");
  auto* verify =
      command->add_flag("--verify", arguments->verify, "read every byte and compare its digest");
  auto* other = command
                    ->add_option("--diff", arguments->other,
                                 "compare with another: tensors, values and recipes")
                    ->type_name("CHECKPOINT");
  command
      ->add_option("--variant", arguments->variant,
                   "of weights: the files of a folder with this word in their names, such as fp16")
      ->type_name("WORD");
  tensor->excludes(verify)->excludes(other);
  verify->excludes(other);
  command->add_flag("--json", arguments->json, "for programs");
  command->footer(
      "Exit codes: 0; with --verify 5 where anything is damaged, missing or not listed; with "
      "--diff "
      "1\nwhere a tensor or value differs (trainer/wall_s is measured and does not count, and what "
      "the\nrecipes say differently is only shown).");
  command->callback([=, &action] { action = [=] { return inspect(*arguments); }; });
}

}  // namespace trestle::launch
