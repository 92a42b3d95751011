// RUN: qvit-opt %s --delay-dequant --report %t.json -o %t.mlir 2> %t.txt
// RUN: filecheck %s --input-file %t.json
// RUN: filecheck %s --input-file %t.txt --check-prefix=TABLE

// Why a rule did not apply: each side condition of each rule is broken once. All is left as it was, in program order.

// CHECK:      "moved": [],
// CHECK-NEXT: "rules": {},
// CHECK-NEXT: "blocked": [

// --- matmul ---

func.func @neither_operand(%a: tensor<2x3xf32>, %b: tensor<3x4xf32>) -> tensor<2x4xf32> {
  %r = qvit.relu %b {qvit.src = ["relu"]} : tensor<3x4xf32>
  %c = qvit.matmul %a, %r {qvit.src = ["neither_operand"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK:      "src": "neither_operand",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: lhs is an argument of the function"
// CHECK:      "src": "neither_operand",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: rhs is made by qvit.relu at relu"

// The probabilities of NNCF's graphs.
func.func @lhs_float(%a: tensor<2x3xf32>, %b: tensor<3x4xi8>) -> tensor<2x4xf32> {
  %p = qvit.softmax %a axis 1 {qvit.src = ["softmax"]} : tensor<2x3xf32>
  %y = qvit.dequantize %b <0.5> : tensor<3x4xi8> -> tensor<3x4xf32>
  %c = qvit.matmul %p, %y {qvit.src = ["lhs_float"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-NOT:  "src": "neither_operand"
// CHECK:      "src": "lhs_float",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: lhs is made by qvit.softmax at softmax"

func.func @rhs_float(%a: tensor<2x3xi8>, %b: tensor<3x4xf32>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.matmul %x, %b {qvit.src = ["rhs_float"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-NOT:  "src": "lhs_float"
// CHECK:      "src": "rhs_float",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: rhs is an argument of the function"

func.func @lhs_contracted(%a: tensor<2x3xi8>, %b: tensor<3x4xi8>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25, 0.1], axis = 1> {qvit.src = ["dq_a"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.5> : tensor<3x4xi8> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["lhs_contracted"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-NOT:  "src": "rhs_float"
// CHECK:      "src": "lhs_contracted",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: lhs's scale or zero point varies along axis 1, made by dq_a; smoothing or re-parametrisation may remove it"

func.func @rhs_contracted(%a: tensor<2x3xi8>, %b: tensor<1x3x4xi8>) -> tensor<1x2x4xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.5, zero_point = [1, 2, 3], axis = 1> {qvit.src = ["dq_b"]} : tensor<1x3x4xi8> -> tensor<1x3x4xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["rhs_contracted"]} : (tensor<2x3xf32>, tensor<1x3x4xf32>) -> tensor<1x2x4xf32>
  func.return %c : tensor<1x2x4xf32>
}
// CHECK-NOT:  "src": "lhs_contracted"
// CHECK:      "src": "rhs_contracted",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: rhs's scale or zero point varies along axis 1, made by dq_b; smoothing or re-parametrisation may remove it"

func.func @lhs_zero_points(%a: tensor<2x3xi8>, %b: tensor<3x4xi8>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = [1, 2], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.5> : tensor<3x4xi8> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["lhs_zero_points"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-NOT:  "src": "rhs_contracted"
// CHECK:      "src": "lhs_zero_points",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "lhs's zero point varies along axis 0; only one number is possible there"

func.func @rhs_zero_points(%a: tensor<2x2x3xi8>, %b: tensor<2x3x4xi8>) -> tensor<2x2x4xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x2x3xi8> -> tensor<2x2x3xf32>
  %y = qvit.dequantize %b <0.5, zero_point = [1, 2], axis = 0> : tensor<2x3x4xi8> -> tensor<2x3x4xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["rhs_zero_points"]} : (tensor<2x2x3xf32>, tensor<2x3x4xf32>) -> tensor<2x2x4xf32>
  func.return %c : tensor<2x2x4xf32>
}
// CHECK-NOT:  "src": "lhs_zero_points"
// CHECK:      "src": "rhs_zero_points",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "rhs's zero point varies along axis 0; only one number is possible there"

// 3 * 2^15 * 2^15
func.func @overflow(%a: tensor<2x3xi16>, %b: tensor<3x4xi16>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x3xi16> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.5> : tensor<3x4xi16> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["overflow"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-NOT:  "src": "rhs_zero_points"
// CHECK:      "src": "overflow",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "the accumulator could overflow: sums over 3 products reach 3221225472, i32 ends at 2147483647"

// The zero point counts: (127 + 128) * 8421505; without it the sum would fit.
func.func @overflow_by_zero_point(%a: tensor<1x1xi8>) -> tensor<1x1xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = -128> : tensor<1x1xi8> -> tensor<1x1xf32>
  %w = qvit.constant dense<8421505> : tensor<1x1xi32>
  %y = qvit.dequantize %w <0.5> : tensor<1x1xi32> -> tensor<1x1xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["overflow_by_zero_point"]} : (tensor<1x1xf32>, tensor<1x1xf32>) -> tensor<1x1xf32>
  func.return %c : tensor<1x1xf32>
}
// CHECK-NOT:  "src": "overflow"
// CHECK:      "src": "overflow_by_zero_point",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "the accumulator could overflow: sums over 1 products reach 2147483775, i32 ends at 2147483647"

// The worst of the columns' zero points: 8421505 * (128 + 127).
func.func @overflow_by_one_column(%b: tensor<1x2xi8>) -> tensor<1x2xf32> {
  %a = qvit.constant dense<8421505> : tensor<1x1xi32>
  %x = qvit.dequantize %a <0.5> : tensor<1x1xi32> -> tensor<1x1xf32>
  %y = qvit.dequantize %b <0.5, zero_point = [0, 127], axis = 1> : tensor<1x2xi8> -> tensor<1x2xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["overflow_by_one_column"]} : (tensor<1x1xf32>, tensor<1x2xf32>) -> tensor<1x2xf32>
  func.return %c : tensor<1x2xf32>
}
// CHECK-NOT:  "src": "overflow_by_zero_point"
// CHECK:      "src": "overflow_by_one_column",
// CHECK-NEXT: "rule": "matmul-of-dequantize",
// CHECK-NEXT: "reason": "the accumulator could overflow: sums over 1 products reach 2147483775, i32 ends at 2147483647"

// --- linear ---

func.func @linear_float(%x: tensor<2x3xf32>) -> tensor<2x4xf32> {
  %w = qvit.constant dense<1.0> : tensor<4x3xf32> {qvit.src = ["w"]}
  %c = qvit.linear %x, %w {qvit.src = ["linear_float"]} : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-NOT:  "src": "overflow_by_one_column"
// CHECK:      "src": "linear_float",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: input is an argument of the function"
// CHECK:      "src": "linear_float",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: weight is made by qvit.constant at w"

func.func @input_contracted(%a: tensor<2x2xi8>, %w: tensor<3x2xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 1> {qvit.src = ["dq_x"]} : tensor<2x2xi8> -> tensor<2x2xf32>
  %v = qvit.dequantize %w <0.5> : tensor<3x2xi8> -> tensor<3x2xf32>
  %c = qvit.linear %x, %v {qvit.src = ["input_contracted"]} : (tensor<2x2xf32>, tensor<3x2xf32>) -> tensor<2x3xf32>
  func.return %c : tensor<2x3xf32>
}
// CHECK-NOT:  "src": "linear_float"
// CHECK:      "src": "input_contracted",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: input's scale or zero point varies along axis 1, made by dq_x; smoothing or re-parametrisation may remove it"

// A weight whose scales follow its inputs, as in Q-ViT.
func.func @weight_contracted(%a: tensor<2x2xi8>, %w: tensor<3x2xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x2xi8> -> tensor<2x2xf32>
  %v = qvit.dequantize %w <[0.5, 0.25], axis = 1> {qvit.src = ["dq_w"]} : tensor<3x2xi8> -> tensor<3x2xf32>
  %c = qvit.linear %x, %v {qvit.src = ["weight_contracted"]} : (tensor<2x2xf32>, tensor<3x2xf32>) -> tensor<2x3xf32>
  func.return %c : tensor<2x3xf32>
}
// CHECK-NOT:  "src": "input_contracted"
// CHECK:      "src": "weight_contracted",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: weight's scale or zero point varies along axis 1, made by dq_w; smoothing or re-parametrisation may remove it"

func.func @input_zero_points(%a: tensor<2x2xi8>, %w: tensor<3x2xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = [1, 2], axis = 0> : tensor<2x2xi8> -> tensor<2x2xf32>
  %v = qvit.dequantize %w <0.5> : tensor<3x2xi8> -> tensor<3x2xf32>
  %c = qvit.linear %x, %v {qvit.src = ["input_zero_points"]} : (tensor<2x2xf32>, tensor<3x2xf32>) -> tensor<2x3xf32>
  func.return %c : tensor<2x3xf32>
}
// CHECK-NOT:  "src": "weight_contracted"
// CHECK:      "src": "input_zero_points",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "input's zero point varies along axis 0; only one number is possible there"

// 128 * (100 + 8388608 * 2): each output's own weights are summed, and the largest sum counts.
func.func @linear_overflow(%a: tensor<1x3xi8>) -> tensor<1x2xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<1x3xi8> -> tensor<1x3xf32>
  %w = qvit.constant dense<[[1, 2, 3], [-100, 8388608, -8388608]]> : tensor<2x3xi32>
  %v = qvit.dequantize %w <0.5> : tensor<2x3xi32> -> tensor<2x3xf32>
  %c = qvit.linear %x, %v {qvit.src = ["linear_overflow"]} : (tensor<1x3xf32>, tensor<2x3xf32>) -> tensor<1x2xf32>
  func.return %c : tensor<1x2xf32>
}
// CHECK-NOT:  "src": "input_zero_points"
// CHECK:      "src": "linear_overflow",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "the accumulator could overflow: sums over 3 products reach 2147496448, i32 ends at 2147483647"

// The weight is known only at run time: 256 * (127 + 5) * (32768 + 32700).
func.func @linear_overflow_by_zero_points(%a: tensor<1x256xi8>, %w: tensor<2x256xi16>) -> tensor<1x2xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = -5> : tensor<1x256xi8> -> tensor<1x256xf32>
  %v = qvit.dequantize %w <0.5, zero_point = [-3, 32700], axis = 0> : tensor<2x256xi16> -> tensor<2x256xf32>
  %c = qvit.linear %x, %v {qvit.src = ["linear_overflow_by_zero_points"]} : (tensor<1x256xf32>, tensor<2x256xf32>) -> tensor<1x2xf32>
  func.return %c : tensor<1x2xf32>
}
// CHECK-NOT:  "src": "linear_overflow"
// CHECK:      "src": "linear_overflow_by_zero_points",
// CHECK-NEXT: "rule": "linear-of-dequantize",
// CHECK-NEXT: "reason": "the accumulator could overflow: sums over 256 products reach 2212294656, i32 ends at 2147483647"

// --- conv2d, conv_transpose2d ---

func.func @conv_channels(%a: tensor<1x2x3x3xi8>, %w: tensor<1x2x1x1xi8>) -> tensor<1x1x3x3xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 1> {qvit.src = ["dq_image"]} : tensor<1x2x3x3xi8> -> tensor<1x2x3x3xf32>
  %v = qvit.dequantize %w <[0.5, 0.25], axis = 1> {qvit.src = ["dq_kernel"]} : tensor<1x2x1x1xi8> -> tensor<1x2x1x1xf32>
  %c = qvit.conv2d %x, %v {qvit.src = ["conv_channels"]} : (tensor<1x2x3x3xf32>, tensor<1x2x1x1xf32>) -> tensor<1x1x3x3xf32>
  func.return %c : tensor<1x1x3x3xf32>
}
// CHECK-NOT:  "src": "linear_overflow_by_zero_points"
// CHECK:      "src": "conv_channels",
// CHECK-NEXT: "rule": "conv2d-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: input's scale or zero point varies along axis 1, made by dq_image; smoothing or re-parametrisation may remove it"
// CHECK:      "src": "conv_channels",
// CHECK-NEXT: "rule": "conv2d-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: weight's scale or zero point varies along axis 1, made by dq_kernel; smoothing or re-parametrisation may remove it"

func.func @conv_pixels(%a: tensor<1x1x2x3xi8>, %w: tensor<1x1x1x1xi8>) -> (tensor<1x1x2x3xf32>, tensor<1x1x2x3xf32>) {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 2> {qvit.src = ["dq_rows"]} : tensor<1x1x2x3xi8> -> tensor<1x1x2x3xf32>
  %y = qvit.dequantize %a <[0.5, 0.25, 0.1], axis = 3> {qvit.src = ["dq_columns"]} : tensor<1x1x2x3xi8> -> tensor<1x1x2x3xf32>
  %v = qvit.dequantize %w <0.5> : tensor<1x1x1x1xi8> -> tensor<1x1x1x1xf32>
  %c = qvit.conv2d %x, %v {qvit.src = ["conv_rows"]} : (tensor<1x1x2x3xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x2x3xf32>
  %d = qvit.conv2d %y, %v {qvit.src = ["conv_columns"]} : (tensor<1x1x2x3xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x2x3xf32>
  func.return %c, %d : tensor<1x1x2x3xf32>, tensor<1x1x2x3xf32>
}
// CHECK-NOT:  "src": "conv_channels"
// CHECK:      "src": "conv_rows",
// CHECK-NEXT: "rule": "conv2d-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: input's scale or zero point varies along axis 2, made by dq_rows;
// CHECK:      "src": "conv_columns",
// CHECK-NEXT: "rule": "conv2d-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: input's scale or zero point varies along axis 3, made by dq_columns;

func.func @conv_kernel(%a: tensor<1x1x2x3xi8>, %w: tensor<1x1x2x2xi8>) -> tensor<1x1x1x2xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<1x1x2x3xi8> -> tensor<1x1x2x3xf32>
  %v = qvit.dequantize %w <[0.5, 0.25], axis = 3> {qvit.src = ["dq_kernel"]} : tensor<1x1x2x2xi8> -> tensor<1x1x2x2xf32>
  %c = qvit.conv2d %x, %v {qvit.src = ["conv_kernel"]} : (tensor<1x1x2x3xf32>, tensor<1x1x2x2xf32>) -> tensor<1x1x1x2xf32>
  func.return %c : tensor<1x1x1x2xf32>
}
// CHECK-NOT:  "src": "conv_columns"
// CHECK:      "src": "conv_kernel",
// CHECK-NEXT: "rule": "conv2d-of-dequantize",
// CHECK-NEXT: "reason": "scale along the contracted axis: weight's scale or zero point varies along axis 3, made by dq_kernel;

// 2 * 2 * 2 products of up to 2^15 * 2^15
func.func @conv_overflow(%a: tensor<2x4x2x3xi16>, %w: tensor<2x2x2x2xi16>) -> tensor<2x2x1x2xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x4x2x3xi16> -> tensor<2x4x2x3xf32>
  %v = qvit.dequantize %w <0.5> : tensor<2x2x2x2xi16> -> tensor<2x2x2x2xf32>
  %c = qvit.conv2d %x, %v {groups = 2 : i64, qvit.src = ["conv_overflow"]} : (tensor<2x4x2x3xf32>, tensor<2x2x2x2xf32>) -> tensor<2x2x1x2xf32>
  func.return %c : tensor<2x2x1x2xf32>
}
// CHECK-NOT:  "src": "conv_kernel"
// CHECK:      "src": "conv_overflow",
// CHECK-NEXT: "rule": "conv2d-of-dequantize",
// CHECK-NEXT: "reason": "the accumulator could overflow: sums over 8 products reach 8589934592, i32 ends at 2147483647"

func.func @conv_transpose(%a: tensor<1x1x2x2xi8>, %w: tensor<1x1x1x1xi8>, %f: tensor<1x1x1x1xf32>) -> (tensor<1x1x2x2xf32>, tensor<1x1x2x2xf32>) {
  %x = qvit.dequantize %a <0.5> : tensor<1x1x2x2xi8> -> tensor<1x1x2x2xf32>
  %v = qvit.dequantize %w <0.5> : tensor<1x1x1x1xi8> -> tensor<1x1x1x1xf32>
  %c = qvit.conv_transpose2d %x, %v {qvit.src = ["conv_transpose"]} : (tensor<1x1x2x2xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x2x2xf32>
  %d = qvit.conv_transpose2d %x, %f {qvit.src = ["conv_transpose_float"]} : (tensor<1x1x2x2xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x2x2xf32>
  func.return %c, %d : tensor<1x1x2x2xf32>, tensor<1x1x2x2xf32>
}
// CHECK-NOT:  "src": "conv_overflow"
// CHECK:      "src": "conv_transpose",
// CHECK-NEXT: "rule": "conv_transpose2d-of-dequantize",
// CHECK-NEXT: "reason": "conv_transpose2d has no integer form"
// CHECK:      "src": "conv_transpose_float",
// CHECK-NEXT: "rule": "conv_transpose2d-of-dequantize",
// CHECK-NEXT: "reason": "operand not quantized: weight is an argument of the function"

// --- operations that only move elements ---

func.func @reshapes(%a: tensor<2x4xi8>) -> (tensor<8xf32>, tensor<2x2x2xf32>) {
  %x = qvit.dequantize %a <[0.5, 0.25, 2.0, 3.0], axis = 1> : tensor<2x4xi8> -> tensor<2x4xf32>
  %y = qvit.reshape %x {qvit.src = ["merge"]} : tensor<2x4xf32> -> tensor<8xf32>
  %z = qvit.reshape %x {qvit.src = ["split"]} : tensor<2x4xf32> -> tensor<2x2x2xf32>
  func.return %y, %z : tensor<8xf32>, tensor<2x2x2xf32>
}
// CHECK-NOT:  "src": "conv_transpose_float"
// CHECK:      "src": "merge",
// CHECK-NEXT: "rule": "reshape-of-dequantize",
// CHECK-NEXT: "reason": "the reshape to (8,) merges axis 1 of (2, 4) with others"
// CHECK:      "src": "split",
// CHECK-NEXT: "rule": "reshape-of-dequantize",
// CHECK-NEXT: "reason": "the scale varies along more than one of the parts (2, 2) into which axis 1 is split"

func.func @gathers(%a: tensor<3x2xi8>, %i: tensor<4xi32>) -> (tensor<4x2xf32>, tensor<2x2x2xf32>) {
  %x = qvit.dequantize %a <[0.5, 0.25, 2.0], axis = 0> : tensor<3x2xi8> -> tensor<3x2xf32>
  %y = qvit.gather %x, %i axis 0 {qvit.src = ["gather_unknown"]} : (tensor<3x2xf32>, tensor<4xi32>) -> tensor<4x2xf32>
  %j = qvit.constant dense<1> : tensor<2x2xi32>
  %z = qvit.gather %x, %j axis 0 {qvit.src = ["gather_matrix"]} : (tensor<3x2xf32>, tensor<2x2xi32>) -> tensor<2x2x2xf32>
  func.return %y, %z : tensor<4x2xf32>, tensor<2x2x2xf32>
}
// CHECK-NOT:  "src": "split"
// CHECK:      "src": "gather_unknown",
// CHECK-NEXT: "rule": "gather-of-dequantize",
// CHECK-NEXT: "reason": "the scale lies along the gathered axis 0 and the indices are not constant"
// CHECK:      "src": "gather_matrix",
// CHECK-NEXT: "rule": "gather-of-dequantize",
// CHECK-NEXT: "reason": "the scale lies along the gathered axis 0 and the indices have 2 dimensions"

func.func @concats(%a: tensor<2x1xi8>, %b: tensor<2x1xui8>, %f: tensor<2x1xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>) {
  %x = qvit.dequantize %a <0.5> : tensor<2x1xi8> -> tensor<2x1xf32>
  %r = qvit.relu %f {qvit.src = ["relu"]} : tensor<2x1xf32>
  %c = qvit.concat %x, %r axis 1 {qvit.src = ["concat_float"]} : (tensor<2x1xf32>, tensor<2x1xf32>) -> tensor<2x2xf32>
  %d = qvit.concat %f, %x axis 1 {qvit.src = ["concat_argument"]} : (tensor<2x1xf32>, tensor<2x1xf32>) -> tensor<2x2xf32>
  %y = qvit.dequantize %b <0.5> : tensor<2x1xui8> -> tensor<2x1xf32>
  %e = qvit.concat %x, %y axis 1 {qvit.src = ["concat_types"]} : (tensor<2x1xf32>, tensor<2x1xf32>) -> tensor<2x2xf32>
  %z = qvit.dequantize %a <[0.5, 0.25], axis = 0> {qvit.src = ["dq_z"]} : tensor<2x1xi8> -> tensor<2x1xf32>
  %g = qvit.concat %x, %z axis 1 {qvit.src = ["concat_axes"]} : (tensor<2x1xf32>, tensor<2x1xf32>) -> tensor<2x2xf32>
  func.return %c, %d, %e, %g : tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
}
// CHECK-NOT:  "src": "gather_matrix"
// CHECK:      "src": "concat_float",
// CHECK-NEXT: "rule": "concat-of-dequantize",
// CHECK-NEXT: "reason": "operand relu is not quantized"
// CHECK:      "src": "concat_argument",
// CHECK-NEXT: "rule": "concat-of-dequantize",
// CHECK-NEXT: "reason": "operand an argument of the function is not quantized"
// CHECK:      "src": "concat_types",
// CHECK-NEXT: "rule": "concat-of-dequantize",
// CHECK-NEXT: "reason": "the operands' codes have different types: i8, ui8"
// CHECK:      "src": "concat_axes",
// CHECK-NEXT: "rule": "concat-of-dequantize",
// CHECK-NEXT: "reason": "the scale of dq_z lies along axis 0, the others differ"

// --- constants that multiply, and quantizes ---

func.func @factors(%a: tensor<2x3xi8>) -> (tensor<2x3xf32>, tensor<2x3xf32>, tensor<1x2x3xf32>, tensor<2x3xf32>) {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32> {qvit.src = ["vector"]}
  %d = qvit.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]> : tensor<2x3xf32> {qvit.src = ["matrix"]}
  %e = qvit.constant dense<2.0> : tensor<1x1x1xf32> {qvit.src = ["box"]}
  %f = qvit.constant dense<[[0.0], [1.0]]> : tensor<2x1xf32> {qvit.src = ["zeros"]}
  %y = qvit.mul %x, %c {qvit.src = ["mul_axes"]} : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %z = qvit.mul %x, %d {qvit.src = ["mul_matrix"]} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %u = qvit.mul %x, %e {qvit.src = ["mul_enlarges"]} : (tensor<2x3xf32>, tensor<1x1x1xf32>) -> tensor<1x2x3xf32>
  %v = qvit.div %x, %f {qvit.src = ["div_by_zero"]} : (tensor<2x3xf32>, tensor<2x1xf32>) -> tensor<2x3xf32>
  func.return %y, %z, %u, %v : tensor<2x3xf32>, tensor<2x3xf32>, tensor<1x2x3xf32>, tensor<2x3xf32>
}
// CHECK-NOT:  "src": "concat_axes"
// CHECK:      "src": "mul_axes",
// CHECK-NEXT: "rule": "mul-of-dequantize",
// CHECK-NEXT: "reason": "the scale lies along axis 0, the constant vector along axis 1"
// CHECK:      "src": "mul_matrix",
// CHECK-NEXT: "rule": "mul-of-dequantize",
// CHECK-NEXT: "reason": "the constant matrix of shape (2, 3) varies along more than one axis"
// CHECK:      "src": "mul_enlarges",
// CHECK-NEXT: "rule": "mul-of-dequantize",
// CHECK-NEXT: "reason": "the constant box enlarges the tensor from (2, 3) to (1, 2, 3)"
// CHECK:      "src": "div_by_zero",
// CHECK-NEXT: "rule": "mul-of-dequantize",
// CHECK-NEXT: "reason": "the constant zeros holds a 0 to divide by"

func.func @factor_of_bias(%a: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32> {qvit.src = ["bias"]}
  %k = qvit.constant dense<[[2.0], [3.0]]> : tensor<2x1xf32> {qvit.src = ["factor"]}
  %y = qvit.add %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %z = qvit.mul %y, %k {qvit.src = ["mul_bias"]} : (tensor<2x3xf32>, tensor<2x1xf32>) -> tensor<2x3xf32>
  func.return %z : tensor<2x3xf32>
}
// CHECK-NOT:  "src": "div_by_zero"
// CHECK:      "src": "mul_bias",
// CHECK-NEXT: "rule": "mul-of-bias-add",
// CHECK-NEXT: "reason": "the constant factor enlarges bias"

func.func @axes(%a: tensor<2x3xi8>) -> tensor<2x3xi8> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.quantize %x <0.5, zero_point = [1, 2, 3], axis = 1> {qvit.src = ["quantize_axes"]} : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %y : tensor<2x3xi8>
}
// CHECK-NOT:  "src": "mul_bias"
// CHECK:      "src": "quantize_axes",
// CHECK-NEXT: "rule": "quantize-of-dequantize",
// CHECK-NEXT: "reason": "the scales lie along different axes: 0 before, 1 after"

// CHECK-NOT:  "src"
// CHECK:      "notes": []

// TABLE:      integer MACs               0.0%          0.0%
// TABLE:      products moved                            0
// TABLE-NEXT: blocked                                   40
// TABLE-NEXT:   11 x matmul-of-dequantize, first neither_operand: operand not quantized: lhs is an argument of the function
// TABLE:        2 x conv_transpose2d-of-dequantize, first conv_transpose: conv_transpose2d has no integer form
// TABLE:      notes                                      0
