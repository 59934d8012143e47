#include <cmath>
#include <nlohmann/json.hpp>

#include "hgfast/hgfast.hpp"

namespace hgfast {
namespace {

using nlohmann::ordered_json;

/// Round to multiples of 1 / unit; null if not finite.
ordered_json rounded(double value, double unit) {
    if (!std::isfinite(value)) return nullptr;
    return std::nearbyint(value * unit) / unit;
}

}  // namespace

std::string Result::to_json() const {
    ordered_json all = {{"joints", ordered_json::array()}, {"people", ordered_json::array()}};
    if (skeleton) all["joints"] = skeleton->joints;
    for (const Person& person : people) {
        ordered_json square = ordered_json::array(), points = ordered_json::array();
        for (const double value : {person.square.x, person.square.y, person.square.width, person.square.height})
            square.push_back(rounded(value, 1e3));
        for (const Keypoint& point : person.keypoints)
            points.push_back(ordered_json::array({rounded(point.x, 1e3), rounded(point.y, 1e3), rounded(point.score, 1e4)}));
        all["people"].push_back({{"square", square}, {"keypoints", points}});
    }
    return all.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace hgfast
