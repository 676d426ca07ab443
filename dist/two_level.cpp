#include "dist/two_level.h"

#include "base/error.h"
#include "dist/reduce.h"
#include "dist/slices.h"
#include "dist/staged.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace trestle::dist::two_level {
namespace {

/// Where this rank is.
struct Place {
  Place(std::shared_ptr<const Topology> shared, const Channel& channel)
      : topology(std::move(shared)),
        rank(channel.rank()),
        host(topology->host_of(rank)),
        local(topology->local_of(rank)),
        hosts(topology->hosts()),
        locals(topology->ranks_per_host()) {
    TRESTLE_ASSERT(topology->ranks() == channel.size() && topology->why_one_level().empty(),
                   "two levels of {} over a channel of {} ranks", topology->to_text(),
                   channel.size());
  }

  /// The rank of this host with that number; the rank of that host with this one's number.
  int mate(int l) const { return topology->rank_at(host, l); }
  int peer(int h) const { return topology->rank_at(h, local); }

  /// f(to, from) for the other numbers on this host, or the other hosts. Starting at the next one
  /// keeps all from sending to the first at once.
  void for_each_mate(auto&& f) const { for_each_other(locals, local, f); }
  void for_each_host(auto&& f) const { for_each_other(hosts, host, f); }

  std::shared_ptr<const Topology> topology;
  int rank, host, local, hosts, locals;

 private:
  static void for_each_other(int count, int own, auto&& f) {
    for (int k = 1; k < count; ++k) f((own + k) % count, (own + count - k) % count);
  }
};

/// The second half: from everyone has its slice to everyone has all. Chunk by chunk, so that what
/// came from other hosts is passed on while the next comes.
class Gathering {
 public:
  /// Slices in bytes.
  Gathering(const Place& place, std::byte* all, Slices slices)
      : place_(place),
        all_(all),
        slices_(std::move(slices)),
        chunks_((slices_.longest() + kStagingBytes - 1) / kStagingBytes) {}

  bool prepare(int64_t stage, Messages& messages) const {
    if (stage > chunks_) return false;
    const auto send = [&](int to, int slice, int64_t chunk) {
      messages.outgoing.push_back({to, piece(slice, chunk)});
    };
    const auto receive = [&](int from, int slice, int64_t chunk) {
      messages.incoming.push_back({from, piece(slice, chunk)});
    };
    place_.for_each_host([&](int to, int from) {
      send(place_.peer(to), place_.rank, stage);
      receive(place_.peer(from), place_.peer(from), stage);
    });
    place_.for_each_mate([&](int to, int from) {
      send(place_.mate(to), place_.rank, stage);
      receive(place_.mate(from), place_.mate(from), stage);
      for (int host = 0; host < place_.hosts; ++host) {
        if (host == place_.host) continue;
        send(place_.mate(to), place_.topology->rank_at(host, place_.local), stage - 1);
        receive(place_.mate(from), place_.topology->rank_at(host, from), stage - 1);
      }
    });
    return true;
  }

 private:
  /// Empty before the first chunk and beyond the slice.
  std::span<std::byte> piece(int slice, int64_t chunk) const {
    const int64_t done = std::clamp<int64_t>(chunk * kStagingBytes, 0, slices_.count(slice));
    const int64_t rest = chunk < 0 ? 0 : slices_.count(slice) - done;
    return {all_ + slices_.begins[slice] + done,
            static_cast<size_t>(std::min(rest, kStagingBytes))};
  }

  const Place& place_;
  std::byte* all_;
  Slices slices_;
  int64_t chunks_;
};

class AllGather : public Staged {
 public:
  AllGather(Channel& channel, const Call& call, std::span<const std::byte> mine,
            std::span<std::byte> all)
      : Staged(channel, call, static_cast<int64_t>(all.size())),
        place_(call.two_level, channel),
        mine_(mine),
        own_(all.data() + place_.rank * mine.size()),
        gathering_(place_, all.data(),
                   Slices::even(static_cast<int64_t>(mine.size()), channel.size())) {
    TRESTLE_ASSERT(all.size() == mine.size() * channel.size(),
                   "{} bytes from each of {} ranks do not make {}", mine.size(), channel.size(),
                   all.size());
  }

 private:
  bool prepare(int64_t stage, Messages& messages) override {
    if (stage == 0 && !mine_.empty() && own_ != mine_.data()) {
      std::memcpy(own_, mine_.data(), mine_.size());
    }
    return gathering_.prepare(stage, messages);
  }

  Place place_;
  std::span<const std::byte> mine_;
  std::byte* own_;
  Gathering gathering_;
};

/// out = this rank's slice of in, reduced by hosts; then, if asked to, everyone's.
template <class In, class T>
class Reduce : public Staged {
 public:
  Reduce(Channel& channel, const Call& call, std::span<const std::byte> in, Slices slices,
         std::byte* out, ReduceOp op, std::byte* gathered)
      : Staged(channel, call, static_cast<int64_t>(in.size())),
        place_(call.two_level, channel),
        in_(reinterpret_cast<const In*>(in.data())),
        slices_(std::move(slices)),
        out_(reinterpret_cast<T*>(out)),
        op_(op),
        step_(std::max<int64_t>(1,
                                kStagingBytes / static_cast<int64_t>(sizeof(In)) / channel.size())),
        chunks_((slices_.longest() + step_ - 1) / step_),
        width_(std::min(step_, slices_.longest())) {
    if (gathered) gathering_.emplace(place_, gathered, slices_.in_units(sizeof(T)));
  }

 private:
  // A chunk takes four stages, and chunks follow each other at a distance of one: it is collected
  // inside the host, added, passed on between hosts, added. Then comes the gathering.
  bool prepare(int64_t stage, Messages& messages) override {
    if (stage == 0) staging_ = reinterpret_cast<In*>(staging(2 * places() * width_ * sizeof(In)));
    collect(stage, messages);
    pass_on(stage - 2, messages);
    const int64_t last = chunks_ + 2;  // only adds
    if (stage < last || !gathering_) return stage < last;
    return stage == last || gathering_->prepare(stage - last - 1, messages);
  }

  /// The host's sum is read before the next but one is written into its place.
  void meanwhile(int64_t stage) override {
    add_hosts(stage - 3);
    add_host(stage - 1);
  }

  bool is_chunk(int64_t chunk) const { return chunk >= 0 && chunk < chunks_; }

  void collect(int64_t chunk, Messages& messages) const {
    if (!is_chunk(chunk)) return;
    place_.for_each_mate([&](int to, int from) {
      for (int host = 0; host < place_.hosts; ++host) {
        const int theirs = place_.topology->rank_at(host, to), ours = place_.peer(host);
        send(place_.mate(to), part_of(theirs, chunk), count(theirs, chunk), messages);
        receive(place_.mate(from), arrival(from, host, chunk), count(ours, chunk), messages);
      }
    });
  }

  void pass_on(int64_t chunk, Messages& messages) const {
    if (!is_chunk(chunk)) return;
    place_.for_each_host([&](int to, int from) {
      send(place_.peer(to), sum_for(to, chunk), count(place_.peer(to), chunk), messages);
      receive(place_.peer(from), sum_from(from, chunk), count(place_.rank, chunk), messages);
    });
  }

  /// What this host has for each rank of this number.
  void add_host(int64_t chunk) const {
    if (!is_chunk(chunk)) return;
    std::vector<const In*> parts(place_.locals);
    for (int host = 0; host < place_.hosts; ++host) {
      for (int local = 0; local < place_.locals; ++local) {
        parts[local] =
            local == place_.local ? part_of(place_.peer(host), chunk) : arrival(local, host, chunk);
      }
      combine_in_order<T>(std::span<const In* const>(parts), count(place_.peer(host), chunk),
                          sum_for(host, chunk), op_);
    }
  }

  void add_hosts(int64_t chunk) const {
    if (!is_chunk(chunk)) return;
    std::vector<const In*> parts(place_.hosts);
    for (int host = 0; host < place_.hosts; ++host) {
      parts[host] = host == place_.host ? sum_for(host, chunk) : sum_from(host, chunk);
    }
    combine_in_order<T>(std::span<const In* const>(parts), count(place_.rank, chunk),
                        out_ + chunk * step_, op_);
  }

  static void send(int to, const In* data, int64_t count, Messages& messages) {
    messages.outgoing.push_back({to, std::as_bytes(std::span(data, size_t(count)))});
  }
  static void receive(int from, In* data, int64_t count, Messages& messages) {
    messages.incoming.push_back({from, std::as_writable_bytes(std::span(data, size_t(count)))});
  }

  int64_t count(int slice, int64_t chunk) const {
    return std::clamp<int64_t>(slices_.count(slice) - chunk * step_, 0, step_);
  }
  const In* part_of(int slice, int64_t chunk) const {
    return in_ + slices_.begins[slice] + chunk * step_;
  }

  // Staging has two halves, for chunks in turn, each with places for: what mates have for the ranks
  // of this number, by mate and host; what this host has for them, by host; what other hosts have
  // for this rank.
  int64_t places() const { return (place_.locals + 1) * place_.hosts - 1; }
  In* at(int64_t chunk, int64_t place) const {
    return staging_ + (chunk % 2 * places() + place) * width_;
  }
  In* arrival(int mate, int host, int64_t chunk) const {
    return at(chunk, (mate < place_.local ? mate : mate - 1) * place_.hosts + host);
  }
  In* sum_for(int host, int64_t chunk) const {
    return at(chunk, (place_.locals - 1) * place_.hosts + host);
  }
  In* sum_from(int host, int64_t chunk) const {
    return at(chunk, place_.locals * place_.hosts + (host < place_.host ? host : host - 1));
  }

  Place place_;
  const In* in_;
  Slices slices_;
  T* out_;
  ReduceOp op_;
  int64_t step_, chunks_, width_;
  std::optional<Gathering> gathering_;
  In* staging_ = nullptr;
};

}  // namespace

Pending all_reduce(Channel& channel, const Call& call, Arithmetic arithmetic,
                   std::span<std::byte> data, ReduceOp op) {
  return with_types(arithmetic, [&]<class In, class T>() -> Pending {
    TRESTLE_ASSERT((std::is_same_v<In, T>), "all_reduce in place keeps its type");
    auto slices = Slices::balanced(static_cast<int64_t>(data.size() / sizeof(T)), channel.size());
    std::byte* own = data.data() + slices.begins[channel.rank()] * sizeof(T);
    return issue<Reduce<In, T>>(channel, call, data, std::move(slices), own, op, data.data());
  });
}

Pending reduce_scatter(Channel& channel, const Call& call, Arithmetic arithmetic,
                       std::span<const std::byte> in, std::span<std::byte> out, ReduceOp op) {
  return with_types(arithmetic, [&]<class In, class T>() -> Pending {
    const size_t each = out.size() / sizeof(T);
    TRESTLE_ASSERT(in.size() == each * sizeof(In) * channel.size(),
                   "{} elements for each of {} ranks do not make {} bytes", each, channel.size(),
                   in.size());
    auto slices = Slices::even(static_cast<int64_t>(each), channel.size());
    return issue<Reduce<In, T>>(channel, call, in, std::move(slices), out.data(), op, nullptr);
  });
}

Pending all_gather(Channel& channel, const Call& call, std::span<const std::byte> mine,
                   std::span<std::byte> all) {
  return issue<AllGather>(channel, call, mine, all);
}

}  // namespace trestle::dist::two_level
