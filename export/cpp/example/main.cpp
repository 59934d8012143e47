// The least that an application needs: a model, an image in memory (here a gray one), keypoints.
#include <hgfast/hgfast.hpp>
#include <iostream>
#include <vector>

int main(int count, char** words) {
    const std::vector<std::uint8_t> pixels(640 * 480 * 3, 128);
    hgfast::Session session;
    hgfast::Result people;
    hgfast::Status status = hgfast::Session::load(count > 1 ? words[1] : "best.fp32.onnx", {}, session);
    if (status) status = session.run({pixels.data(), 640, 480}, {{120, 40, 300, 420}}, people);
    std::cout << (status ? people.to_json() : status.message) << "\n";
    return status ? 0 : 1;
}
