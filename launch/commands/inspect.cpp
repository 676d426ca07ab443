#include "base/error.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_reader.h"
#include "configs/nearest.h"
#include "launch/commands/command.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace trestle::launch {
namespace {

std::string text_of(const checkpoint::Value& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

int verify(const std::filesystem::path& folder) {
  const auto damages = checkpoint::verify(folder);
  for (const auto& damage : damages) {
    fmt::print("damaged: {} bytes {} to {}: {}\n", damage.file, damage.begin, damage.end,
               damage.what);
  }
  if (!damages.empty()) return static_cast<int>(ExitCode::checkpoint);
  fmt::print("{}: every byte has its digest\n", folder.string());
  return 0;
}

void print_tensor(const checkpoint::Manifest& manifest, const std::string& name) {
  const auto found = manifest.tensors.find(name);
  if (found == manifest.tensors.end()) {
    std::vector<std::string> names;
    for (const auto& [known, record] : manifest.tensors) names.push_back(known);
    fail(ExitCode::usage, "the checkpoint has no tensor \"{}\" (it has {}). Did you mean {}?", name,
         names.size(), configs::nearest(name, names));
  }
  const auto& record = found->second;
  fmt::print("{}\n  shape [{}] {}\n", name, fmt::join(record.shape, ", "),
             formats::element_name(record.dtype));
  for (const auto& piece : record.pieces) {
    fmt::print("  elements {} to {}: {} bytes at offset {} of {} (dataset {})\n", piece.begin,
               piece.end, piece.bytes, piece.offset, manifest.files[piece.file].name,
               piece.dataset);
  }
}

void print_summary(const std::filesystem::path& folder, const checkpoint::Manifest& manifest,
                   bool json) {
  std::uint64_t bytes = 0;
  for (const auto& file : manifest.files) bytes += file.bytes;
  if (json) {
    nlohmann::ordered_json object = {{"checkpoint", folder.string()},
                                     {"step", manifest.step},
                                     {"world", manifest.world},
                                     {"bytes", bytes},
                                     {"recipe_hash", manifest.recipe_hash},
                                     {"versions", manifest.versions}};
    if (const auto& topology = manifest.topology) {
      object["topology"] = {{"host_of_rank", topology->host_of_rank}, {"levels", topology->levels}};
    }
    for (const auto& [name, value] : manifest.values) {
      auto& shown = object["values"][name];
      std::visit([&](const auto& v) { shown = v; }, value);
    }
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
  for (const auto& [name, version] : manifest.versions) fmt::print("  {} {}\n", name, version);
  for (const auto& file : manifest.files) fmt::print("  {} {} bytes\n", file.name, file.bytes);
  for (const auto& [name, value] : manifest.values) fmt::print("  {} = {}\n", name, text_of(value));
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto* command =
      app.add_subcommand("inspect", "show what a checkpoint holds, and whether it is whole");
  auto folder = std::make_shared<std::string>();
  auto tensor = std::make_shared<std::string>();
  auto check = std::make_shared<bool>(false);
  auto json = std::make_shared<bool>(false);
  command
      ->add_option("checkpoint", *folder,
                   "a folder such as runs/quickstart/checkpoints/step-00000100")
      ->required()
      ->type_name("CHECKPOINT");
  command->add_option("--tensor", *tensor, "where one tensor's bytes lie")->type_name("NAME");
  command->add_flag("--verify", *check, "read every byte and compare its digest");
  command->add_flag("--json", *json, "for programs");
  command->callback([=, &action] {
    action = [=] {
      if (*check) return verify(*folder);
      const auto manifest = checkpoint::read_manifest(*folder);
      if (tensor->empty())
        print_summary(*folder, manifest, *json);
      else
        print_tensor(manifest, *tensor);
      return 0;
    };
  });
}

}  // namespace trestle::launch
