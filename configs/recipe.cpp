#include "configs/recipe.h"

#include "configs/loader.h"
#include "configs/recipe_data.h"
#include "configs/toml_text.h"
#include "configs/value.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

namespace trestle::configs {
namespace {

std::string read_recipe(const std::filesystem::path& file, const std::string& said_at) {
  const std::string before = said_at.empty() ? "" : said_at + ": ";
  std::error_code ignored;
  TRESTLE_REQUIRE(!std::filesystem::is_directory(file, ignored),
                  "{}recipe {} cannot be read (it is a folder). Name a TOML file in it.", before,
                  file.string());
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  TRESTLE_REQUIRE(stream.is_open() && !stream.bad(),
                  "{}recipe {} cannot be read ({}). Name an existing TOML file.", before,
                  file.string(), errno ? std::strerror(errno) : "input error");
  return text;
}

struct ChainLink {
  std::filesystem::path file;
  std::filesystem::path real;  // links and .. resolved: tells whether two names are one file
  TomlText text;
};

std::string circle_text(const std::vector<ChainLink>& chain, const std::string& closing) {
  std::string out;
  for (const ChainLink& link : chain) out += link.file.string() + " -> ";
  return out + closing;
}

// The recipe first, then what it extends, and so on.
std::vector<ChainLink> read_chain(std::filesystem::path file) {
  std::vector<ChainLink> chain;
  std::string said_at;
  for (;;) {
    std::error_code ignored;
    const std::filesystem::path real = std::filesystem::weakly_canonical(file, ignored);
    for (const ChainLink& link : chain) {
      TRESTLE_REQUIRE(
          link.real != real, "{}: extends = {} closes a circle ({}). Take one of these lines out.",
          said_at, to_toml(chain.back().text.extends->value), circle_text(chain, file.string()));
    }
    chain.push_back({file, real, parse_toml(read_recipe(file, said_at), file.string())});
    const std::optional<Entry>& extends = chain.back().text.extends;
    if (!extends) return chain;
    said_at = extends->source;
    file = (file.parent_path() / std::get<std::string>(extends->value.data)).lexically_normal();
  }
}

void put(std::vector<Entry>& entries, Entry entry) {
  const auto it = std::find_if(entries.begin(), entries.end(), [&](const Entry& other) {
    return other.section == entry.section && other.key == entry.key;
  });
  if (it == entries.end()) {
    entries.push_back(std::move(entry));
  } else {
    *it = std::move(entry);
  }
}

void put_sets(std::span<const std::string> sets, int layer, std::vector<Entry>& entries,
              std::vector<SectionMention>& sections) {
  for (const std::string& set : sets) {
    Entry entry = parse_set(set);
    entry.layer = layer;
    if (!entry.section.empty()) sections.push_back({entry.section, entry.source});
    put(entries, std::move(entry));
  }
}

std::pair<std::string_view, std::string_view> split(std::string_view dotted_key) {
  const auto dot = dotted_key.rfind('.');
  if (dot == std::string_view::npos) return {"", dotted_key};
  return {dotted_key.substr(0, dot), dotted_key.substr(dot + 1)};
}

}  // namespace

const Entry* Recipe::Data::find(std::string_view section, std::string_view key) const {
  const auto it = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
    return entry.section == section && entry.key == key;
  });
  return it == entries.end() ? nullptr : &*it;
}

std::string Recipe::Data::value_of(const DescribedOption& option, const Schema& schema) const {
  const Entry* entry = find(option.section, option.key);
  if (!entry) {
    const DescribedOption* inherited = schema.inherited(option);
    return inherited ? value_of(*inherited, schema) : option.default_text;
  }
  const Checked result = checked(option, entry->value, Dialect::toml);
  return result.problem.empty() ? to_toml(result.value) : "";
}

Recipe::Recipe(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

Recipe Recipe::load(const std::filesystem::path& file, std::span<const std::string> sets) {
  auto data = std::make_shared<Data>();
  data->name = file.string();
  std::vector<ChainLink> chain = read_chain(file);
  int layer = 0;
  for (auto link = chain.rbegin(); link != chain.rend(); ++link, ++layer) {
    for (Entry& entry : link->text.entries) {
      entry.layer = layer;
      put(data->entries, std::move(entry));
    }
    for (SectionMention& section : link->text.sections)
      data->sections.push_back(std::move(section));
  }
  put_sets(sets, layer, data->entries, data->sections);
  return Recipe(std::move(data));
}

Recipe Recipe::from_text(std::string_view toml, std::string name_for_errors,
                         std::span<const std::string> sets) {
  TomlText text = parse_toml(toml, name_for_errors);
  if (text.extends) {
    fail(ExitCode::usage,
         "{}: extends has no file to start from here (a resolved recipe says "
         "everything itself). Take the line out.",
         text.extends->source);
  }
  auto data = std::make_shared<Data>(
      Data{std::move(name_for_errors), std::move(text.entries), std::move(text.sections)});
  put_sets(sets, /*layer=*/1, data->entries, data->sections);
  return Recipe(std::move(data));
}

const std::string& Recipe::name() const { return data_->name; }

void Recipe::fill(std::string_view section, const std::function<void(Fields&)>& describe) const {
  Loader loader(section, Dialect::toml, [&](std::string_view key) -> Loader::Said {
    const Entry* entry = data_->find(section, key);
    return entry ? Loader::Said{&entry->value, entry->source} : Loader::Said{};
  });
  describe(loader);
  if (!loader.problems().empty()) throw Error(ExitCode::usage, joined_lines(loader.problems()));
}

bool Recipe::is_set(std::string_view dotted_key) const {
  const auto [section, key] = split(dotted_key);
  return data_->find(section, key) != nullptr;
}

Error Recipe::error_at(std::string_view dotted_key, std::string_view message) const {
  const auto [section, key] = split(dotted_key);
  const Entry* entry = data_->find(section, key);
  return Error(ExitCode::usage, fmt::format("{}: {}", entry ? entry->source : name(), message));
}

std::vector<Explained> Recipe::explain(const Schema& schema) const {
  check(schema);
  std::vector<Explained> all;
  for (const DescribedOption& option : schema.options()) {
    Explained one{.key = option.name(),
                  .value = data_->value_of(option, schema),
                  .source = "default",
                  .default_value = option.default_text,
                  .type = option.type(),
                  .unit = option.unit,
                  .range = option.range(),
                  .help = option.help,
                  .needs = {},
                  .may_change = option.may_change};
    if (const Entry* entry = data_->find(option.section, option.key)) {
      one.source = entry->from_set ? "--set" : entry->source;
    }
    if (option.needs) {
      one.needs = option.needs->text();
      one.has_effect =
          data_->value_of(schema.needed_by(option), schema) == option.needs->value_text();
    }
    all.push_back(std::move(one));
  }
  return all;
}

std::string Recipe::resolved_toml(const Schema& schema) const {
  const std::vector<Explained> all = explain(schema);
  std::string text;
  for (const std::string& section : schema.sections()) {
    if (!section.empty()) text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", section);
    for (size_t i = 0; i < all.size(); ++i) {
      const DescribedOption& option = schema.options()[i];
      if (option.section != section) continue;
      // Said as a key it would be refused when the text is read again.
      text += all[i].has_effect
                  ? fmt::format("{} = {}\n", option.key, all[i].value)
                  : fmt::format("# {} = {} (needs {})\n", option.key, all[i].value, all[i].needs);
    }
  }
  return text;
}

}  // namespace trestle::configs
