// A thousand random damages to a checkpoint, drawn from a seed: verify() finds and names every one,
// and load() finds it, too, or gives the exact state (what it does not read cannot hurt it).
#include "base/error.h"
#include "base/files.h"
#include "checkpoint/find.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "checkpoint/verify.h"
#include "tests/checkpoint/states.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <random>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;

constexpr unsigned kSeed = 20261;
constexpr int kDamages = 1000;

std::string read_all(const fs::path& path) {
  return read_text_file(path, 1 << 26, ExitCode::environment);
}

void write_all(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), std::ssize(text));
}

/// Two checkpoints of other states, and what their files hold while nothing is wrong.
class Pair {
 public:
  Pair() {
    for (int i = 0; i < 2; ++i) {
      paths_[i] = save_as(3, states_[i], folder_.path(), 10 + i, /*index=*/true);
      for (const auto& entry : fs::directory_iterator(paths_[i]))
        contents_[i][entry.path().filename().string()] = read_all(entry.path());
    }
  }

  /// Writes a file anew, and remembers that it is to be restored.
  void put(int which, const std::string& name, std::string_view text) {
    touched_.insert({which, name});
    write_all(paths_[which] / name, text);
  }
  void remove(int which, const std::string& name) {
    touched_.insert({which, name});
    fs::remove(paths_[which] / name);
  }
  void restore() {
    for (const auto& [which, name] : touched_)
      write_all(paths_[which] / name, original(which, name));
    touched_.clear();
  }

  const std::string& original(int which, const std::string& name) const {
    return contents_[which].at(name);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, text] : contents_[0]) names.push_back(name);
    return names;
  }
  /// The files of the first checkpoint that are not what was saved.
  std::vector<std::string> touched() const {
    std::vector<std::string> names;
    for (const auto& [which, name] : touched_)
      if (which == 0) names.push_back(name);
    return names;
  }
  const fs::path& path() const { return paths_[0]; }
  TestState& state() { return states_[0]; }

 private:
  ScratchFolder folder_;
  TestState states_[2] = {TestState(11), TestState(12)};
  fs::path paths_[2];
  std::map<std::string, std::string> contents_[2];
  std::set<std::pair<int, std::string>> touched_;
};

using Random = std::mt19937_64;

std::string any_of(const std::vector<std::string>& names, Random& random) {
  return names[random() % names.size()];
}

void flip_a_bit(Pair& pair, Random& random) {
  const std::string name = any_of(pair.names(), random);
  std::string text = pair.original(0, name);
  char& byte = text[random() % text.size()];
  byte = static_cast<char>(byte ^ (1 << random() % 8));
  pair.put(0, name, text);
}

void truncate(Pair& pair, Random& random) {
  const std::string name = any_of(pair.names(), random);
  const std::string& text = pair.original(0, name);
  pair.put(0, name, std::string_view(text).substr(0, random() % text.size()));
}

void extend(Pair& pair, Random& random) {
  const std::string name = any_of(pair.names(), random);
  pair.put(0, name, pair.original(0, name) + std::string(1 + random() % 5000, '\0'));
}

void remove_a_file(Pair& pair, Random& random) { pair.remove(0, any_of(pair.names(), random)); }

void swap_two_shards(Pair& pair, Random& random) {
  const std::string shards[] = {"shard-00000-of-00003.h5", "shard-00001-of-00003.h5",
                                "shard-00002-of-00003.h5"};
  const std::size_t a = random() % 3, b = (a + 1 + random() % 2) % 3;
  pair.put(0, shards[a], pair.original(0, shards[b]));
  pair.put(0, shards[b], pair.original(0, shards[a]));
}

void take_anothers_shard(Pair& pair, Random& random) {
  const std::string name = fmt::format("shard-{:05}-of-00003.h5", random() % 3);
  pair.put(0, name, pair.original(1, name));
}

/// A digit of the text becomes another, or a line goes.
void edit_the_manifest(Pair& pair, Random& random) {
  const std::string name(kManifestName);
  std::string text = pair.original(0, name);
  if (random() % 2 == 0) {
    std::size_t at = random() % text.size();
    while (!std::isdigit(static_cast<unsigned char>(text[at]))) at = (at + 1) % text.size();
    text[at] = static_cast<char>('0' + (text[at] - '0' + 1 + static_cast<int>(random() % 9)) % 10);
  } else {
    const std::size_t begin = text.find('\n', random() % (text.size() / 2));
    text.erase(begin, text.find('\n', begin + 1) - begin);
  }
  pair.put(0, name, text);
}

void swap_whole_manifests(Pair& pair, Random&) {
  const std::string name(kManifestName);
  pair.put(0, name, pair.original(1, name));
  pair.put(1, name, pair.original(0, name));
}

TEST(RandomDamage, IsAllFoundAndNamedAndNeverLoaded) {
  struct Kind {
    const char* name;
    void (*damage)(Pair&, Random&);
    int made = 0, refused = 0, exact = 0;
  };
  Kind kinds[] = {{"a bit flipped", flip_a_bit},
                  {"a bit flipped", flip_a_bit},
                  {"a file truncated", truncate},
                  {"a file extended", extend},
                  {"a file deleted", remove_a_file},
                  {"two shards swapped", swap_two_shards},
                  {"another checkpoint's shard", take_anothers_shard},
                  {"the manifest edited", edit_the_manifest},
                  {"whole manifests swapped", swap_whole_manifests}};
  Pair pair;
  Random random(kSeed);
  int found = 0;
  for (int round = 0; round < kDamages; ++round) {
    Kind& kind = kinds[random() % std::size(kinds)];
    kind.damage(pair, random);
    ++kind.made;
    const std::string where =
        fmt::format("round {}: {} ({})", round, kind.name, fmt::join(pair.touched(), ", "));

    const std::vector<Damage> damages = verify(pair.path());
    found += damages.empty() ? 0 : 1;
    ASSERT_FALSE(damages.empty()) << where;
    for (const std::string& name : pair.touched()) {
      // A manifest of another checkpoint is whole: it shows by what it says of the others.
      const bool named = std::ranges::any_of(
          damages, [&](const Damage& d) { return d.file == name && !d.what.empty(); });
      EXPECT_TRUE(named) << where;
    }

    TestState loaded(0);
    try {
      require_complete(pair.path());
      load(pair.path(), loaded.visitor());
      ++kind.exact;
      ASSERT_TRUE(same_state(pair.state(), loaded)) << where;
    } catch (const DamageError& error) {
      ++kind.refused;
      EXPECT_NE(std::string(error.what()).find(pair.path().string()), std::string::npos) << where;
    }
    pair.restore();
  }
  EXPECT_TRUE(verify(pair.path()).empty());
  EXPECT_EQ(found, kDamages);
  std::printf("seed %u: %d of %d random damages found and named\n", kSeed, found, kDamages);
  for (const Kind& kind : kinds) {
    std::printf("  %-28s %4d: load refused %d, loaded the exact state %d\n", kind.name, kind.made,
                kind.refused, kind.exact);
  }
}

}  // namespace
}  // namespace trestle::checkpoint
